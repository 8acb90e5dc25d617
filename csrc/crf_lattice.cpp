// Builds the lattice: cells to lattice points, then each point's cells and neighbours.
#include "crf_lattice.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "crf_numbering.h"
#include "parallel.h"
#include "rows.h"

namespace f2f {
namespace {

constexpr std::int64_t kEmbedPiece = 4096;  // cells
constexpr double kFarthest = 1 << 20;       // coordinates beyond have no precise place in float32

// A lattice point's first five coordinates as one number (the sixth is minus their sum): digits of `bits` bits, each
// from -2^(bits - 1) on. To go to a neighbour is to add a number.
template <typename Number, int bits>
struct KeyOf {
    using Type = Number;
    static Number unit(int axis) { return axis < kFeatures ? Number{1} << (bits * axis) : Number{0}; }
    static Number of(const EmbeddedCells& places, std::int64_t cell) {
        Number key = 0;
        for (int axis = kFeatures - 1; axis >= 0; --axis)
            key = (key << bits) + static_cast<Number>(static_cast<std::int64_t>(places.origin[axis][cell]));
        return key;
    }
};
using ShortKey = KeyOf<std::uint64_t, 12>;
using LongKey = KeyOf<Wide, 25>;
constexpr double kShortReach = (1 << 11) - 3 * kCorners;  // how far a coordinate and its neighbours' may lie

// How a feature becomes its share of the lattice's coordinates, in units of kCorners. The kernel's variance along an
// axis, in steps of the lattice, is that of the blur and 1/12 each for the ways in and out; a feature's axis has length
// sqrt((j + 1) (j + 2)).
EmbedScale scale_of(const Bilateral& deviations) {
    const double variance = 2 * kNeighbourShare / (1 + 2 * kNeighbourShare) + 2.0 / 12;
    EmbedScale scale{};
    for (int j = 0; j < kFeatures; ++j) {
        const double deviation = j < 2 ? deviations.px : deviations.rgb / 255.0;
        scale.factor[j] = static_cast<float>(std::sqrt(variance / ((j + 1) * (j + 2))) / deviation);
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

// Where the cells are in the lattice; memory for EmbeddedCells.
struct Places {
    explicit Places(const Cells& cells)
        : padded((cells.count() + kCellBlock - 1) / kCellBlock * kCellBlock),
          numbers(make_scratch<float>(kCorners * padded)),
          integers(make_scratch<std::int32_t>((kFeatures + 1) * padded)) {
        for (int j = 0; j < kFeatures; ++j) embedded.features[j] = cells.features[j].get();
        for (int k = 0; k < kCorners; ++k) embedded.weights[k] = numbers.get() + k * padded;
        for (int j = 0; j < kFeatures; ++j) embedded.origin[j] = integers.get() + j * padded;
        embedded.order = integers.get() + kFeatures * padded;
    }
    std::int64_t padded;
    Scratch<float> numbers;
    Scratch<std::int32_t> integers;
    EmbeddedCells embedded{};
};

template <typename Key>
class Builder {
  public:
    using Number = typename Key::Type;

    Builder(Lattice& lattice, const Cells& cells) : lattice_(lattice), cells_(cells) {
        Number all = 0;
        for (int axis = 0; axis < kCorners; ++axis) all += Key::unit(axis);
        for (int axis = 0; axis < kCorners; ++axis) step_[axis] = all - kCorners * Key::unit(axis);
    }

    void build(const EmbeddedCells& places, int threads) {
        number_corners(places);
        lattice_.vertices = static_cast<std::int64_t>(numbering_.keys().size());
        lattice_.neighbours = make_scratch<std::int32_t>(2 * kCorners * lattice_.vertices);
        const double nanoseconds = 20.0 * kCorners * static_cast<double>(lattice_.vertices);
        parallel_for(kCorners + 1, threads_for(nanoseconds, threads), [&](std::int64_t task) {
            if (task == 0) return sort_sources();
            find_neighbours(static_cast<int>(task - 1));
        });
    }

  private:
    // From one corner of a cell's simplex to the next, one coordinate falls by kCorners and then all rise by one.
    void number_corners(const EmbeddedCells& places) {
        std::int32_t* corner = lattice_.corners.get();
        float* weight = lattice_.weights.get();
        for (std::int64_t cell = 0; cell < cells_.count(); ++cell) {
            Number key = Key::of(places, cell);
            for (int k = 0; k < kCorners; ++k) {
                if (k > 0) key += step_[places.order[cell] >> (4 * (kCorners - k)) & 7];
                *corner++ = numbering_.number(key);
                *weight++ = places.weights[k][cell];
            }
        }
    }

    // A counting sort of the cells' corners by lattice point.
    void sort_sources() {
        const std::int64_t count = cells_.count() * kCorners;
        std::vector<std::int32_t>& begin = lattice_.sources_begin;
        begin.assign(lattice_.vertices + 1, 0);
        for (std::int64_t i = 0; i < count; ++i) ++begin[lattice_.corners[i]];
        for (std::int64_t vertex = 1; vertex <= lattice_.vertices; ++vertex) begin[vertex] += begin[vertex - 1];
        for (std::int64_t i = count - 1; i >= 0; --i) {
            const std::int32_t place = --begin[lattice_.corners[i]];
            lattice_.sources[place] = static_cast<std::int32_t>(i / kCorners);
            lattice_.source_weights[place] = lattice_.weights[i];
        }
    }

    // Whoever finds a point ahead of it is behind that point.
    void find_neighbours(int axis) {
        const std::int64_t count = lattice_.vertices;
        std::int32_t* ahead = lattice_.neighbours.get() + 2 * axis * count;
        std::int32_t* behind = ahead + count;
        std::fill(behind, behind + count, static_cast<std::int32_t>(count));
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int32_t found = numbering_.find(numbering_.keys()[i] + step_[axis]);
            ahead[i] = found < 0 ? static_cast<std::int32_t>(count) : found;
            if (found >= 0) behind[found] = static_cast<std::int32_t>(i);
        }
    }

    Lattice& lattice_;
    const Cells& cells_;
    Numbering<Number> numbering_;
    Number step_[kCorners];  // what a step along an axis adds to a key
};

}  // namespace

void check_reach(std::int64_t height, std::int64_t width, const Bilateral& deviations) {
    const double reach = reach_of(scale_of(deviations), height, width);
    if (!(reach < kFarthest))
        throw std::invalid_argument("the image spans " + std::to_string(reach) +
                                    " steps of the bilateral kernel's lattice; accepted: fewer than 2^20");
}

Lattice make_lattice(const Cells& cells, const Bilateral& deviations, int threads) {
    const EmbedScale scale = scale_of(deviations);
    const Places places(cells);
    const std::int64_t blocks = (cells.count() + kEmbedPiece - 1) / kEmbedPiece;
    parallel_for(blocks, threads_for(10.0 * static_cast<double>(cells.count()), threads), [&](std::int64_t block) {
        const std::int64_t first = block * kEmbedPiece;
        rows().embed(scale, places.embedded, first, std::min(places.padded, first + kEmbedPiece));
    });
    Lattice lattice{};
    lattice.corners = make_scratch<std::int32_t>(cells.count() * kCorners);
    lattice.weights = make_scratch<float>(cells.count() * kCorners);
    lattice.sources = make_scratch<std::int32_t>(cells.count() * kCorners);
    lattice.source_weights = make_scratch<float>(cells.count() * kCorners);
    if (reach_of(scale, cells.height, cells.width) < kShortReach)
        Builder<ShortKey>(lattice, cells).build(places.embedded, threads);
    else
        Builder<LongKey>(lattice, cells).build(places.embedded, threads);
    return lattice;
}

}  // namespace f2f
