// The C++ kernels. Arrays are dense and in C order; each function is defined by its namesake in kernels/reference.py.
#pragma once

#include <cstdint>

namespace f2f {

// bits int32 [clips, frames, words, height, width], flow_xy_px float32 [clips, frames - 1, 2, height, width] ->
// carried int32 [clips, kept, words, height, width], kept = 1 (the last frame) or frames (all of them).
void warp_union(const std::int32_t* bits, const float* flow_xy_px, std::int32_t* carried, std::int64_t clips,
                std::int64_t frames, std::int64_t words, std::int64_t height, std::int64_t width, std::int64_t kept,
                int threads);

// channels float32 [images, depth, height, width] -> distance float32 [images, height, width].
void minimum_barrier(const float* channels, float* distance, std::int64_t images, std::int64_t depth,
                     std::int64_t height, std::int64_t width, std::int64_t passes, int threads);

}  // namespace f2f
