// The permutohedral lattice of one image (Adams, Baek and Davis 2010): where each pixel lies in the space of position
// and colour, and which lattice points are neighbours there. It is built once and filters any number of values.
#pragma once

#include <cstdint>
#include <vector>

#include "scratch.h"

namespace f2f {

constexpr int kFeatures = 5;  // x, y, r, g, b
constexpr int kCorners = kFeatures + 1;

// Standard deviations of the bilateral kernel; the image is [3, height, width], of 0..1.
struct Bilateral {
    float px, rgb;  // rgb in units of 1/255
};

// A lattice point has one number in every band that touches it (a local one, counted through all bands) and one in the
// whole lattice. Values are summed in a band, then over the bands in their order: the same on any number of threads.
struct Lattice {
    std::int64_t height, width;
    std::int64_t band_rows;                 // rows of pixels in a band, the last one may have fewer
    std::int64_t bands;                     //
    std::int64_t vertices;                  // lattice points
    std::vector<std::int64_t> band_begin;   // [bands + 1], local numbers
    std::vector<std::int32_t> whole;        // [local numbers], the number in the lattice
    std::vector<std::int32_t> parts_begin;  // [vertices + 1], into parts
    std::vector<std::int32_t> parts;        // local numbers of each point, ascending
    Scratch<std::int32_t> neighbours;       // [kCorners axes, 2, vertices]; `vertices` where there is none
    Scratch<std::int32_t> corners;          // [pixels, kCorners], local numbers counted from the band's first
    Scratch<float> weights;                 // [pixels, kCorners], barycentric

    std::int64_t locals() const { return band_begin[bands]; }
    std::int64_t locals_of(std::int64_t band) const { return band_begin[band + 1] - band_begin[band]; }
    std::int64_t first_row(std::int64_t band) const { return band * band_rows; }
    std::int64_t end_row(std::int64_t band) const {
        return (band + 1) * band_rows < height ? (band + 1) * band_rows : height;
    }
    std::int32_t* corners_of(std::int64_t row) const { return corners.get() + row * width * kCorners; }
    float* weights_of(std::int64_t row) const { return weights.get() + row * width * kCorners; }
};

// Throws std::invalid_argument where the image spans too many standard deviations to be numbered.
Lattice make_lattice(const float* image, std::int64_t height, std::int64_t width, const Bilateral& deviations,
                     int threads);

}  // namespace f2f
