// Pixels of one image that are so near to each other, in place and colour, that one message does for all of them.
#pragma once

#include <cstdint>
#include <vector>

#include "scratch.h"

namespace f2f {

constexpr int kFeatures = 5;  // x, y, r, g, b

// Standard deviations of the bilateral kernel; the image is [3, height, width], of 0..1.
struct Bilateral {
    float px, rgb;  // rgb in units of 1/255
};

// A cell lies in one band of rows; the bands are the same on any number of threads.
struct Cells {
    std::int64_t height, width;
    std::int64_t band_rows;                // rows of pixels in a band, the last one may have fewer
    std::int64_t bands;                    //
    std::vector<std::int64_t> band_begin;  // [bands + 1], cells
    Scratch<std::int32_t> cell_of;         // [height, width], counted from the band's first cell
    Scratch<float> pixels;                 // [cells], how many a cell has
    Scratch<float> features[kFeatures];    // [cells], means; from the middle of the image, and of the colours

    std::int64_t count() const { return band_begin[bands]; }
    std::int64_t count_of(std::int64_t band) const { return band_begin[band + 1] - band_begin[band]; }
    std::int64_t first_row(std::int64_t band) const { return band * band_rows; }
    std::int64_t end_row(std::int64_t band) const {
        return (band + 1) * band_rows < height ? (band + 1) * band_rows : height;
    }
    const std::int32_t* cells_of(std::int64_t row) const { return cell_of.get() + row * width; }
};

constexpr std::int64_t kCellBlock = 16;  // arrays of features are padded to whole vectors of every instruction set

Cells make_cells(const float* image, std::int64_t height, std::int64_t width, const Bilateral& deviations, int threads);

}  // namespace f2f
