// The C++ kernels. Arrays are dense and in C order; each function is defined by its namesake in kernels/reference.py.
#pragma once

#include <cstdint>
#include <vector>

namespace f2f {

// How one axis of a CAM is made as long as the frame's: per pixel the two taps and their weights.
struct Axis {
    const std::int32_t* low;
    const std::int32_t* high;
    const float* low_weight;
    const float* high_weight;
};

// The CAMs of one scale, float32 [images, channels, height, width]; a mirrored one has a mirrored horizontal axis.
struct Cam {
    const float* values;
    std::int64_t height, width;
    Axis vertical, horizontal;
};

// classes int64 [images, planes] -> bits int32 [images, ceil(planes / 32), height, width], peaks float32 [images,
// planes].
void activate_cams(const std::vector<Cam>& cams, const std::int64_t* classes, float theta, std::int32_t* bits,
                   float* peaks, std::int64_t images, std::int64_t channels, std::int64_t planes, std::int64_t height,
                   std::int64_t width, int threads);

// bits int32 [clips, frames, words, height, width], flow_xy_px float32 [clips, frames - 1, 2, height, width] ->
// carried int32 [clips, kept, words, height, width], kept = 1 (the last frame) or frames (all of them).
void warp_union(const std::int32_t* bits, const float* flow_xy_px, std::int32_t* carried, std::int64_t clips,
                std::int64_t frames, std::int64_t words, std::int64_t height, std::int64_t width, std::int64_t kept,
                int threads);

// maps float32 [clips, frames, planes, height, width], flow_xy_px and return_xy_px float32 [clips, frames - 1, 2,
// height, width] -> united float32 [clips, planes, height, width].
void soft_union(const float* maps, const float* flow_xy_px, const float* return_xy_px, float* united,
                std::int64_t clips, std::int64_t frames, std::int64_t planes, std::int64_t height, std::int64_t width,
                int threads);

// What the cost volumes share: T is float or double.
struct Features {
    std::int64_t images, channels, height, width;
    int reach;  // displacements -reach..reach
};

// f1, f2 [images, channels, height, width], flow_xy_px [images, 2, height, width] or null (f2 is not warped) ->
// costs [images, (2 * reach + 1)^2, height, width].
template <typename T>
void cost_volume(const T* f1, const T* f2, const T* flow_xy_px, T* costs, const Features& size, int threads);

// gradient, of the costs -> to_f1, to_f2 as f1, f2; to_flow as flow_xy_px, null where that is.
template <typename T>
void cost_volume_backward(const T* gradient, const T* f1, const T* f2, const T* flow_xy_px, T* to_f1, T* to_f2,
                          T* to_flow, const Features& size, int threads);

// bits int32 [images, ceil(planes / 32), height, width], classes int64 [images, planes], saliency float32 [images,
// height, width] or null -> labels uint8 [images, height, width].
void compose_labels(const std::int32_t* bits, const std::int64_t* classes, const float* saliency, float theta_b,
                    std::uint8_t* labels, std::int64_t images, std::int64_t planes, std::int64_t height,
                    std::int64_t width, int threads);

// channels float32 [images, depth, height, width] -> distance float32 [images, height, width].
void minimum_barrier(const float* channels, float* distance, std::int64_t images, std::int64_t depth,
                     std::int64_t height, std::int64_t width, std::int64_t passes, int threads);

// Parameters of the dense CRF: standard deviations in px and, of colours, in units of 1/255.
struct CrfOptions {
    std::int64_t steps;
    float gaussian_px, gaussian_weight, bilateral_px, bilateral_rgb, bilateral_weight;
};

// unary float32 [images, labels, height, width], image float32 [images, 3, height, width] -> probabilities as unary.
void crf_refine(const float* unary, const float* image, float* probabilities, std::int64_t images, std::int64_t labels,
                std::int64_t height, std::int64_t width, const CrfOptions& options, int threads);

}  // namespace f2f
