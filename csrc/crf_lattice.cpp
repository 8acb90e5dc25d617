// Builds the lattice: pixels to lattice points, in bands of rows, then the bands into one.
#include "crf_lattice.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "parallel.h"
#include "rows.h"

namespace f2f {
namespace {

constexpr std::int64_t kBandPixels = 8192;
constexpr std::int64_t kRowBlock = 16;  // rows of pixels are padded to whole vectors of every instruction set
constexpr double kFarthest = 1 << 20;   // coordinates beyond have no precise place in float32

// A lattice point's first five coordinates as one number (the sixth is minus their sum): digits of `bits` bits, each
// from -2^(bits - 1) on. To go to a neighbour is to add a number.
template <typename Number, int bits>
struct KeyOf {
    using Type = Number;
    static Number unit(int axis) { return axis < kFeatures ? Number{1} << (bits * axis) : Number{0}; }
    static Number of(const EmbeddedRow& row, std::int64_t x) {
        Number key = 0;
        for (int axis = kFeatures - 1; axis >= 0; --axis)
            key = (key << bits) + static_cast<Number>(static_cast<std::int64_t>(row.origin[axis][x]));
        return key;
    }
};
using ShortKey = KeyOf<std::uint64_t, 12>;
__extension__ typedef unsigned __int128 Wide;
using LongKey = KeyOf<Wide, 25>;
constexpr double kShortReach = (1 << 11) - 3 * kCorners;  // how far a coordinate and its neighbours' may lie

inline std::uint64_t hash(std::uint64_t key) { return key * 0x9e3779b97f4a7c15u; }
inline std::uint64_t hash(Wide key) {
    return hash(static_cast<std::uint64_t>(key) ^ hash(static_cast<std::uint64_t>(key >> 64)) >> 7);
}

// Numbers keys in the order in which they first come; open addressing.
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
    static constexpr std::size_t kSparse = 6;  // slots for a key: with fewer, keys would meet more often

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

// How a feature becomes its share of the lattice's coordinates, in units of kCorners. One step of blur spreads by
// sqrt(2 / 3) of a lattice with kCorners between its points; a feature's axis has length sqrt((j + 1) (j + 2)).
EmbedScale scale_of(const Bilateral& deviations) {
    EmbedScale scale{};
    for (int j = 0; j < kFeatures; ++j) {
        const double deviation = j < 2 ? deviations.px : deviations.rgb / 255.0;
        scale.factor[j] = static_cast<float>(std::sqrt(2.0 / 3.0 / ((j + 1) * (j + 2))) / deviation);
    }
    return scale;
}

// The largest coordinate that any pixel can have.
double reach_of(const EmbedScale& scale, std::int64_t height, std::int64_t width) {
    const double half[kFeatures] = {width / 2.0, height / 2.0, 0.5, 0.5, 0.5};
    double sum = 0, largest = 0;
    for (int j = kFeatures - 1; j >= 0; --j) {
        const double share = half[j] * scale.factor[j] * kCorners;
        largest = std::max(largest, sum + (j + 1) * share);
        sum += share;
    }
    return std::max(largest, sum);
}

// Colours to 0..1, NaN to 0, and the rest of the last vector to 0.
void copy_colours(const float* from, std::int64_t width, std::int64_t padded, float* to) {
    for (std::int64_t x = 0; x < width; ++x) to[x] = from[x] > 0 ? std::min(from[x], 1.0f) : 0.0f;
    std::fill(to + width, to + padded, 0.0f);
}

// One row of pixels on its way into the lattice.
struct RowMemory {
    explicit RowMemory(std::int64_t width)
        : padded((width + kRowBlock - 1) / kRowBlock * kRowBlock),
          numbers(make_scratch<float>((3 + kCorners) * padded)),
          places(make_scratch<std::int32_t>(kCorners * padded)) {
        for (int j = 0; j < 3; ++j) row.colours[j] = numbers.get() + j * padded;
        for (int k = 0; k < kCorners; ++k) row.weights[k] = numbers.get() + (3 + k) * padded;
        for (int j = 0; j < kFeatures; ++j) row.origin[j] = places.get() + j * padded;
        row.order = places.get() + kFeatures * padded;
    }
    std::int64_t padded;
    Scratch<float> numbers;
    Scratch<std::int32_t> places;
    EmbeddedRow row{};
};

template <typename Key>
class Builder {
  public:
    using Number = typename Key::Type;

    Builder(Lattice& lattice, const float* image, const EmbedScale& scale)
        : lattice_(lattice), image_(image), scale_(scale), numberings_(lattice.bands) {
        Number all = 0;
        for (int axis = 0; axis < kCorners; ++axis) all += Key::unit(axis);
        for (int axis = 0; axis < kCorners; ++axis) step_[axis] = all - kCorners * Key::unit(axis);
    }

    void build(int threads) {
        parallel_for(lattice_.bands, threads, [&](std::int64_t band) { number_band(band); });
        join_bands();
        parallel_for(kCorners, threads_for(20.0 * kCorners * static_cast<double>(lattice_.vertices), threads),
                     [&](std::int64_t axis) { find_neighbours(static_cast<int>(axis)); });
    }

  private:
    void number_band(std::int64_t band) {
        RowMemory memory(lattice_.width);
        const std::int64_t plane = lattice_.height * lattice_.width;
        for (std::int64_t y = lattice_.first_row(band); y < lattice_.end_row(band); ++y) {
            for (int j = 0; j < 3; ++j)
                copy_colours(image_ + j * plane + y * lattice_.width, lattice_.width, memory.padded,
                             const_cast<float*>(memory.row.colours[j]));
            memory.row.x = -0.5f * static_cast<float>(lattice_.width - 1);
            memory.row.y = static_cast<float>(y) - 0.5f * static_cast<float>(lattice_.height - 1);
            rows().embed(scale_, memory.row, memory.padded);
            number_row(memory.row, numberings_[band], y * lattice_.width * kCorners);
        }
    }

    // From one corner of a pixel's simplex to the next, one coordinate falls by kCorners and then all rise by one.
    void number_row(const EmbeddedRow& row, Numbering<Number>& numbering, std::int64_t place) {
        std::int32_t* corner = lattice_.corners.get() + place;
        float* weight = lattice_.weights.get() + place;
        for (std::int64_t x = 0; x < lattice_.width; ++x) {
            Number key = Key::of(row, x);
            for (int k = 0; k < kCorners; ++k) {
                if (k > 0) key += step_[row.order[x] >> (4 * (kCorners - k)) & 7];
                *corner++ = numbering.number(key);
                *weight++ = row.weights[k][x];
            }
        }
    }

    void join_bands() {
        for (const auto& numbering : numberings_) {
            for (const Number key : numbering.keys()) lattice_.whole.push_back(all_.number(key));
            lattice_.band_begin.push_back(static_cast<std::int64_t>(lattice_.whole.size()));
        }
        lattice_.vertices = static_cast<std::int64_t>(all_.keys().size());
        lattice_.neighbours = make_scratch<std::int32_t>(2 * kCorners * lattice_.vertices);
        sort_parts();
    }

    // A counting sort of the local numbers by the number in the lattice.
    void sort_parts() {
        std::vector<std::int32_t>& begin = lattice_.parts_begin;
        begin.assign(lattice_.vertices + 1, 0);
        for (const std::int32_t vertex : lattice_.whole) ++begin[vertex];
        for (std::int64_t i = 1; i <= lattice_.vertices; ++i) begin[i] += begin[i - 1];
        lattice_.parts.resize(lattice_.whole.size());
        for (std::int64_t local = lattice_.locals() - 1; local >= 0; --local)
            lattice_.parts[--begin[lattice_.whole[local]]] = static_cast<std::int32_t>(local);
    }

    // Whoever finds a point ahead of it is behind that point.
    void find_neighbours(int axis) {
        const std::int64_t count = lattice_.vertices;
        std::int32_t* ahead = lattice_.neighbours.get() + 2 * axis * count;
        std::int32_t* behind = ahead + count;
        std::fill(behind, behind + count, static_cast<std::int32_t>(count));
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int32_t found = all_.find(all_.keys()[i] + step_[axis]);
            ahead[i] = found < 0 ? static_cast<std::int32_t>(count) : found;
            if (found >= 0) behind[found] = static_cast<std::int32_t>(i);
        }
    }

    Lattice& lattice_;
    const float* image_;
    const EmbedScale scale_;
    std::vector<Numbering<Number>> numberings_;
    Numbering<Number> all_;
    Number step_[kCorners];  // what a step along an axis adds to a key
};

}  // namespace

Lattice make_lattice(const float* image, std::int64_t height, std::int64_t width, const Bilateral& deviations,
                     int threads) {
    const EmbedScale scale = scale_of(deviations);
    const double reach = reach_of(scale, height, width);
    if (!(reach < kFarthest))
        throw std::invalid_argument("the image spans " + std::to_string(reach) +
                                    " steps of the bilateral kernel's lattice; accepted: fewer than 2^20");
    Lattice lattice{};
    lattice.height = height;
    lattice.width = width;
    lattice.band_rows = std::max<std::int64_t>(1, kBandPixels / width);
    lattice.bands = (height + lattice.band_rows - 1) / lattice.band_rows;
    lattice.band_begin.push_back(0);
    lattice.corners = make_scratch<std::int32_t>(height * width * kCorners);
    lattice.weights = make_scratch<float>(height * width * kCorners);
    if (reach < kShortReach)
        Builder<ShortKey>(lattice, image, scale).build(threads);
    else
        Builder<LongKey>(lattice, image, scale).build(threads);
    return lattice;
}

}  // namespace f2f
