// Minimum barrier distance by raster sweeps.
#include <limits>
#include <vector>

#include "check.h"
#include "kernels.h"
#include "parallel.h"

namespace f2f {
namespace {

// The best path known for a pixel: its highest and lowest value and the barrier between them.
struct Path {
    float highest, lowest, distance;
};

// Extends the neighbour's path to a pixel of this value, if that makes a lower barrier.
inline void extend(const Path& neighbour, float value, Path& path) {
    const float highest = neighbour.highest > value ? neighbour.highest : value;
    const float lowest = neighbour.lowest < value ? neighbour.lowest : value;
    const float barrier = highest - lowest;
    if (barrier < path.distance) path = {highest, lowest, barrier};
}

// Distance 0 on the border, infinite inside.
void start(const float* image, std::int64_t height, std::int64_t width, std::vector<Path>& paths) {
    for (std::int64_t y = 0; y < height; ++y)
        for (std::int64_t x = 0; x < width; ++x) {
            const bool border = y == 0 || x == 0 || y == height - 1 || x == width - 1;
            const float value = image[y * width + x];
            paths[y * width + x] = {value, value, border ? 0.0f : std::numeric_limits<float>::infinity()};
        }
}

// From the top left, looking up, then left.
void sweep_forward(const float* image, std::int64_t height, std::int64_t width, std::vector<Path>& paths) {
    for (std::int64_t y = 1; y < height - 1; ++y)
        for (std::int64_t i = y * width + 1; i < (y + 1) * width - 1; ++i) {
            Path path = paths[i];
            extend(paths[i - width], image[i], path);
            extend(paths[i - 1], image[i], path);
            paths[i] = path;
        }
}

// From the bottom right, looking down, then right.
void sweep_backward(const float* image, std::int64_t height, std::int64_t width, std::vector<Path>& paths) {
    for (std::int64_t y = height - 2; y > 0; --y)
        for (std::int64_t i = (y + 1) * width - 2; i > y * width; --i) {
            Path path = paths[i];
            extend(paths[i + width], image[i], path);
            extend(paths[i + 1], image[i], path);
            paths[i] = path;
        }
}

void barrier_of_image(const float* channels, std::int64_t depth, std::int64_t height, std::int64_t width,
                      std::int64_t passes, float* distance) {
    const std::int64_t plane = height * width;
    std::vector<Path> paths(plane);
    for (std::int64_t i = 0; i < plane; ++i) distance[i] = 0.0f;
    for (std::int64_t channel = 0; channel < depth; ++channel) {
        const float* image = channels + channel * plane;
        start(image, height, width, paths);
        for (std::int64_t pass = 0; pass < passes; ++pass)
            (pass % 2 == 0 ? sweep_forward : sweep_backward)(image, height, width, paths);
        for (std::int64_t i = 0; i < plane; ++i) distance[i] += paths[i].distance;
    }
}

}  // namespace

void minimum_barrier(const float* channels, float* distance, std::int64_t images, std::int64_t depth,
                     std::int64_t height, std::int64_t width, std::int64_t passes, int threads) {
    check_at_least_one("passes", passes);
    check_at_least_one("threads", threads);
    check_pointer("channels", channels, {images, depth, height, width});
    check_pointer("distance", distance, {images, height, width});
    const std::int64_t plane = height * width;
    parallel_for(images, threads, [&](std::int64_t image) {
        barrier_of_image(channels + image * depth * plane, depth, height, width, passes, distance + image * plane);
    });
}

}  // namespace f2f
