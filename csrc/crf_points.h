// What is done with values at lattice points: `count` of them side by side, [points, count]. `Value` is a float or a
// vector of them; compilers let a vector alias its elements.
#pragma once

#include <algorithm>
#include <cstdint>

#include "crf_lattice.h"

namespace f2f {

typedef float Four __attribute__((vector_size(16)));

template <typename Value>
Value* as(float* floats) {
    return reinterpret_cast<Value*>(floats);
}

template <typename Value>
constexpr std::int64_t kFloatsIn = sizeof(Value) / sizeof(float);

// `count`, where it is not known beforehand: there is never more than one float, as four are a vector.
template <typename Value>
constexpr std::int64_t known(std::int64_t count) {
    return kFloatsIn<Value> == 1 ? 1 : count;
}

// Points first..end-1 of the lattice as the sums of what the bands have for them, in the order of the bands.
template <typename Value>
void join_parts(const Lattice& lattice, std::int64_t first, std::int64_t end, std::int64_t count, const Value* parts,
                Value* to) {
    count = known<Value>(count);
    for (std::int64_t i = first; i < end; ++i)
        for (std::int64_t c = 0; c < count; ++c) {
            Value sum{};
            for (std::int32_t k = lattice.parts_begin[i]; k < lattice.parts_begin[i + 1]; ++k)
                sum += parts[lattice.parts[k] * count + c];
            to[i * count + c] = sum;
        }
}

// Half of each neighbour along an axis is added. Point `vertices` stands for those that are not there and holds 0.
template <typename Value>
void blur_axis(const Lattice& lattice, int axis, std::int64_t first, std::int64_t end, std::int64_t count,
               const Value* from, Value* to) {
    count = known<Value>(count);
    const std::int32_t* ahead = lattice.neighbours.get() + 2 * axis * lattice.vertices;
    const std::int32_t* behind = ahead + lattice.vertices;
    for (std::int64_t i = first; i < end; ++i) {
        const Value *one = from + ahead[i] * count, *other = from + behind[i] * count;
        for (std::int64_t c = 0; c < count; ++c) to[i * count + c] = from[i * count + c] + 0.5f * (one[c] + other[c]);
    }
}

// A band's points out of the lattice's.
template <typename Value>
void fetch_band(const Lattice& lattice, std::int64_t band, std::int64_t count, const Value* points, Value* to) {
    count = known<Value>(count);
    for (std::int64_t local = lattice.band_begin[band]; local < lattice.band_begin[band + 1]; ++local, to += count)
        std::copy_n(points + lattice.whole[local] * count, count, to);
}

// Sums of a band's points over the corners of every pixel of row y.
template <int block, typename Value>
void slice_row(const Lattice& lattice, std::int64_t y, std::int64_t count, const Value* points, Value* to) {
    count = known<Value>(count);
    const std::int32_t* corner = lattice.corners_of(y);
    const float* weight = lattice.weights_of(y);
    for (std::int64_t x = 0; x < lattice.width; ++x, corner += kCorners, weight += kCorners) {
        Value sums[block] = {};
        for (int k = 0; k < kCorners; ++k)
            for (int c = 0; c < block; ++c) sums[c] += weight[k] * points[corner[k] * count + c];
        for (int c = 0; c < block; ++c) to[x * count + c] = sums[c];
    }
}

// The other way: every pixel of row y is added to its corners.
template <int block, typename Value>
void splat_row(const Lattice& lattice, std::int64_t y, std::int64_t count, const Value* from, Value* points) {
    count = known<Value>(count);
    const std::int32_t* corner = lattice.corners_of(y);
    const float* weight = lattice.weights_of(y);
    for (std::int64_t x = 0; x < lattice.width; ++x, corner += kCorners, weight += kCorners) {
        Value values[block];
        for (int c = 0; c < block; ++c) values[c] = from[x * count + c];
        for (int k = 0; k < kCorners; ++k)
            for (int c = 0; c < block; ++c) points[corner[k] * count + c] += weight[k] * values[c];
    }
}

// Calls work.operator()<block>(first) for blocks of the `count` values that fit the registers.
template <typename Work>
void in_blocks(std::int64_t count, const Work& work) {
    constexpr int most = 5;  // 20 labels and background
    std::int64_t first = 0;
    for (; first + most <= count; first += most) work.template operator()<most>(first);
    if (count - first == 1) work.template operator()<1>(first);
    if (count - first == 2) work.template operator()<2>(first);
    if (count - first == 3) work.template operator()<3>(first);
    if (count - first == 4) work.template operator()<4>(first);
}

}  // namespace f2f
