// The inner loops, which exist once per instruction set: a table of functions that each work on one row of pixels.
// The same source (rows.inc) is compiled for every set; which table is used is decided once, in isa.cpp.
#pragma once

#include <cstdint>

namespace f2f {

// One step of the warp-and-union for one row. Planes of a frame are dense, `plane` = height * width words apart.
struct WarpRow {
    const std::int32_t* carried;  // [words, height, width], the frame before
    const std::int32_t* fresh;    // [words, ·, width] from this row on
    const float* flow_x;          // [width], px
    const float* flow_y;
    std::int32_t* united;  // [words, ·, width] from this row on
    std::int32_t y, height, width, words;
    std::int64_t plane;
};

// One step of the soft warp-and-union for one row.
struct SoftRow {
    const float* carried;  // [planes, height, width], the frame before
    const float* fresh;    // [planes, ·, width] from this row on
    const float* flow_x;   // [width], px, to the frame before
    const float* flow_y;
    const float* back_x;  // [height, width], px, from the frame before to this one
    const float* back_y;
    float* united;  // [planes, ·, width] from this row on
    std::int32_t y, height, width, planes;
    std::int64_t plane;
};

// One CAM between two of its rows, both already as wide as the frame (and padded with zeros to a whole block).
struct CamRows {
    const float* low;
    const float* high;
    float low_weight, high_weight;
};

// A plane in the order of its claim: where its bit is, and the label it gives.
struct Claim {
    std::int32_t word, bit, label;
};

// A row of pixels, [channels, stride], padded with zeros: column x + reach is pixel x.
template <typename T>
using Line = const T*;

// Some pixel rows against their neighbourhood. f1 and costs are dense, their planes `plane` apart.
template <typename T>
struct CostRows {
    const T* f1;        // [channels, ·, width] from the first of `rows` pixel rows on
    const Line<T>* f2;  // rows + 2 * reach lines, from the one `reach` above the first row on
    T* costs;           // [(2 * reach + 1)^2, ·, width] from the first row on
    T* tile;            // working memory, [channels, cost_rows, cost_block]
    std::int64_t channels, stride, width, plane;
    int reach, rows;
};

// The gradient of row y: to[c, x] = scale * sum over k of of_costs[k, y, x] * features[row of k, c, x + column of k],
// or, mirrored, of of_costs[-k, y + row of k, x + column of k] * the same: what f2 is to f1, f1 is to f2.
template <typename T>
struct GradientRow {
    const T* of_costs;        // [(2 * reach + 1)^2, height, width]
    const Line<T>* features;  // 2 * reach + 1 lines, from the one `reach` above row y on
    T* to;                    // [channels, ·, width] from this row on
    std::int64_t channels, stride, y, height, width;
    T scale;
    int reach;
    bool mirrored;
};

// Where each pixel of a row samples a plane: four taps, and their weights (0 for a tap outside the frame). Of a vector
// of pixels that is marked in `together` the taps are neighbours, as the pixels are.
template <typename T>
struct SampleRow {
    const std::int32_t* at[4];  // offsets in the plane
    const T* weight[4];
    const std::uint8_t* together;
    std::int64_t width;
};

// What makes a lattice place of features: see crf_lattice.cpp.
struct EmbedScale {
    float factor[5];  // of x, y, r, g, b
};

// Cells of pixels in the lattice of crf_refine. Every array is padded to a multiple of 16 values.
struct EmbeddedCells {
    const float* features[5];
    std::int32_t* origin[5];  // coordinates of the simplex's first corner
    std::int32_t* order;      // bits 4 r and up: which coordinate has rank r, from the largest one on
    float* weights[6];        // of the simplex's corners
};

struct Rows {
    const char* name;
    int cam_block;   // floats; CamRows are padded to a multiple of it
    int cost_rows;   // how many pixel rows a CostRows may hold
    int cost_block;  // values; rows that are laid out are padded to a multiple of it
    template <typename T>
    int block() const {  // values of type T in a vector
        return cost_block * static_cast<int>(sizeof(float)) / static_cast<int>(sizeof(T));
    }
    void (*warp)(const WarpRow&);
    void (*soft_warp)(const SoftRow&);
    void (*cam_columns)(const float* row, const std::int32_t* low, const std::int32_t* high, const float* low_weight,
                        const float* high_weight, std::int64_t width, float* wide);
    // of maps[chosen[0]], maps[chosen[1]], ... at the block from column x on
    float (*cam_peak)(const CamRows* maps, const std::int32_t* chosen, int count, std::int64_t x);
    void (*cam_bits)(const CamRows* maps, const std::int32_t* chosen, int count, std::int64_t x, std::int64_t pixels,
                     float threshold, std::int32_t bit, std::int32_t* words);
    void (*count_bits)(const std::int32_t* words, std::int64_t count, std::int64_t* counts);  // of each of 32 bits
    void (*labels)(const std::int32_t* words, std::int64_t plane, const Claim* claims, int count, const float* saliency,
                   float theta_b, std::int64_t pixels, std::uint8_t* labels);
    void (*sample_f32)(const SampleRow<float>&, const float* plane, float* sampled);
    void (*sample_f64)(const SampleRow<double>&, const double* plane, double* sampled);
    // sums[tap][x] += gradient[x] * plane[at[tap][x]]
    void (*sum_taps_f32)(const SampleRow<float>&, const float* plane, const float* gradient, float* const* sums);
    void (*sum_taps_f64)(const SampleRow<double>&, const double* plane, const double* gradient, double* const* sums);
    // plane[at[tap][x]] += gradient[x] * weight[tap][x]
    void (*spread_f32)(const SampleRow<float>&, const float* gradient, float* plane);
    void (*spread_f64)(const SampleRow<double>&, const double* gradient, double* plane);
    void (*costs_f32)(const CostRows<float>&);
    void (*costs_f64)(const CostRows<double>&);
    void (*gradient_f32)(const GradientRow<float>&);
    void (*gradient_f64)(const GradientRow<double>&);
    // These work on whole vectors: `count` and `stride` are multiples of 16.
    void (*embed)(const EmbedScale&, const EmbeddedCells&, std::int64_t first, std::int64_t end);
    // to[x] += sum over taps of weights[tap] * from[tap * stride + x]; the stride is any.
    void (*add_taps)(const float* from, std::int64_t stride, const float* weights, std::int64_t taps,
                     std::int64_t count, float* to);
    // energies of a row, [labels, ·, width], planes `plane` apart -> logits [labels - 1, stride] of labels 1.. less
    // label 0's; with NaN as the highest energy.
    void (*first_logits)(const float* unary, std::int64_t plane, int labels, std::int64_t width, std::int64_t stride,
                         float* logits);
    // logits [labels - 1, stride] of labels 1.. less label 0's -> first [count], shares [labels - 1, stride]; softmax.
    void (*label_shares)(const float* logits, std::int64_t stride, int labels, std::int64_t count, float* first,
                         float* shares);
};

// The table in use: the best one of this machine, or the one that was asked for.
const Rows& rows();

}  // namespace f2f
