// Numbers for keys, in the order in which they first come: a hash table with open addressing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace f2f {

__extension__ typedef unsigned __int128 Wide;

inline std::uint64_t hash(std::uint64_t key) { return key * 0x9e3779b97f4a7c15u; }
inline std::uint64_t hash(Wide key) {
    return hash(static_cast<std::uint64_t>(key) ^ hash(static_cast<std::uint64_t>(key >> 64)) >> 7);
}

template <typename Key>
class Numbering {
  public:
    Numbering() : slots_(std::size_t{1} << bits_, -1) {}

    std::int32_t number(Key key) {
        std::uint64_t slot = hash(key) >> (64 - bits_);
        for (; slots_[slot] >= 0; slot = next(slot))
            if (keys_[slots_[slot]] == key) return slots_[slot];
        const auto fresh = static_cast<std::int32_t>(keys_.size());
        slots_[slot] = fresh;
        keys_.push_back(key);
        if (kSparse * keys_.size() > slots_.size()) grow();
        return fresh;
    }

    // The number of a key, -1 if it has none.
    std::int32_t find(Key key) const {
        std::uint64_t slot = hash(key) >> (64 - bits_);
        while (slots_[slot] >= 0 && keys_[slots_[slot]] != key) slot = next(slot);
        return slots_[slot];
    }

    const std::vector<Key>& keys() const { return keys_; }

  private:
    static constexpr std::size_t kSparse = 3;  // slots for a key: with fewer, keys would meet more often

    std::uint64_t next(std::uint64_t slot) const { return (slot + 1) & (slots_.size() - 1); }

    void grow() {
        bits_ += 2;
        slots_.assign(std::size_t{1} << bits_, -1);
        for (std::size_t i = 0; i < keys_.size(); ++i) {
            std::uint64_t slot = hash(keys_[i]) >> (64 - bits_);
            while (slots_[slot] >= 0) slot = next(slot);
            slots_[slot] = static_cast<std::int32_t>(i);
        }
    }

    int bits_ = 12;
    std::vector<std::int32_t> slots_;
    std::vector<Key> keys_;
};

}  // namespace f2f
