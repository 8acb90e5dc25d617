// Working memory that starts at a cache line, so that whole vectors of it are loaded at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace f2f {

constexpr std::int64_t kCacheLine = 64;  // bytes

struct FreeAligned {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{kCacheLine}); }
};

template <typename T>
using Scratch = std::unique_ptr<T[], FreeAligned>;

// `count` values, not initialised.
template <typename T>
Scratch<T> make_scratch(std::int64_t count) {
    return Scratch<T>(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{kCacheLine})));
}

template <typename T>
Scratch<T> make_zeros(std::int64_t count) {
    Scratch<T> zeros = make_scratch<T>(count);
    std::memset(static_cast<void*>(zeros.get()), 0, count * sizeof(T));
    return zeros;
}

}  // namespace f2f
