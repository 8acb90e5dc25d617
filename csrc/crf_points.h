// What is done with values of cells and of lattice points. `Value` is a float or a vector of them, one of each label;
// compilers let a vector alias its elements.
#pragma once

#include <cstdint>

#include "crf_lattice.h"

namespace f2f {

typedef float Four __attribute__((vector_size(16)));

template <typename Value>
Value* as(float* floats) {
    return reinterpret_cast<Value*>(floats);
}

template <typename Value>
constexpr int kFloatsIn = sizeof(Value) / sizeof(float);

// Points first..end-1 of the lattice as sums over the cells around them.
template <typename Value>
void splat(const Lattice& lattice, std::int64_t first, std::int64_t end, const Value* cells, Value* points) {
    for (std::int64_t i = first; i < end; ++i) {
        Value sum{};
        for (std::int32_t k = lattice.sources_begin[i]; k < lattice.sources_begin[i + 1]; ++k)
            sum += lattice.source_weights[k] * cells[lattice.sources[k]];
        points[i] = sum;
    }
}

// A share of each neighbour along an axis is added. Point `vertices` stands for those that are not there and holds 0.
template <typename Value>
void blur_axis(const Lattice& lattice, int axis, std::int64_t first, std::int64_t end, const Value* from, Value* to) {
    const std::int32_t* ahead = lattice.neighbours.get() + 2 * axis * lattice.vertices;
    const std::int32_t* behind = ahead + lattice.vertices;
    for (std::int64_t i = first; i < end; ++i) to[i] = from[i] + kNeighbourShare * (from[ahead[i]] + from[behind[i]]);
}

// A cell as the sum over the points around it.
template <typename Value>
Value slice(const Lattice& lattice, std::int64_t cell, const Value* points) {
    Value sum{};
    for (std::int64_t k = cell * kCorners; k < (cell + 1) * kCorners; ++k)
        sum += lattice.weights[k] * points[lattice.corners[k]];
    return sum;
}

// Between labels side by side, of as many pixels as a Value has labels, and a row for each label.
inline void transpose(float (&)[1]) {}
inline void transpose(Four (&v)[4]) {
    const Four a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5), b = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
    const Four c = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5), d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
    v[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    v[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    v[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    v[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

// Adds each pixel's cell, [·, count], to rows [labels, stride].
template <typename Value>
void add_cells(const std::int32_t* cell_of, std::int64_t width, const Value* cells, std::int64_t count, float* rows,
               std::int64_t stride) {
    constexpr int lanes = kFloatsIn<Value>;
    for (std::int64_t x = 0; x < width; x += lanes)
        for (std::int64_t c = 0; c < count; ++c) {
            Value values[lanes] = {};
            for (int i = 0; i < lanes && x + i < width; ++i) values[i] = cells[cell_of[x + i] * count + c];
            transpose(values);
            for (int i = 0; i < lanes; ++i) *as<Value>(rows + (c * lanes + i) * stride + x) += values[i];
        }
}

// Adds rows [labels, stride] to each pixel's cell, [·, count].
template <typename Value>
void add_to_cells(const std::int32_t* cell_of, std::int64_t width, float* rows, std::int64_t stride, std::int64_t count,
                  Value* cells) {
    constexpr int lanes = kFloatsIn<Value>;
    for (std::int64_t x = 0; x < width; x += lanes)
        for (std::int64_t c = 0; c < count; ++c) {
            Value values[lanes];
            for (int i = 0; i < lanes; ++i) values[i] = *as<Value>(rows + (c * lanes + i) * stride + x);
            transpose(values);
            for (int i = 0; i < lanes && x + i < width; ++i) cells[cell_of[x + i] * count + c] += values[i];
        }
}

}  // namespace f2f
