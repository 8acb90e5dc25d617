// One label per pixel from bit planes: of several classes the smallest in area.
#include <algorithm>
#include <vector>

#include "check.h"
#include "kernels.h"
#include "parallel.h"
#include "rows.h"

namespace f2f {
namespace {

constexpr std::int64_t kMaxClass = 253;  // labels 0 and 255 are taken

struct Plane {
    Claim claim;
    std::int64_t area;
};

std::int32_t bit_of(std::int64_t plane) { return static_cast<std::int32_t>(std::uint32_t{1} << (plane % 32)); }

// The planes of an image that hold anything, weakest claim first.
std::vector<Claim> find_claims(const std::int32_t* bits, const std::int64_t* classes, std::int64_t planes,
                               std::int64_t pixels) {
    std::vector<Plane> found;
    std::int64_t areas[32];
    for (std::int64_t plane = 0; plane < planes; ++plane) {
        if (plane % 32 == 0) rows().count_bits(bits + plane / 32 * pixels, pixels, areas);
        const auto label = static_cast<std::int32_t>(classes[plane] + 1);
        if (label > 0 && areas[plane % 32] > 0)
            found.push_back({{static_cast<std::int32_t>(plane / 32), bit_of(plane), label}, areas[plane % 32]});
    }
    std::sort(found.begin(), found.end(), [](const Plane& a, const Plane& b) {
        return a.area != b.area ? a.area > b.area : a.claim.label > b.claim.label;
    });
    std::vector<Claim> claims;
    for (const Plane& plane : found) claims.push_back(plane.claim);
    return claims;
}

}  // namespace

void compose_labels(const std::int32_t* bits, const std::int64_t* classes, const float* saliency, float theta_b,
                    std::uint8_t* labels, std::int64_t images, std::int64_t planes, std::int64_t height,
                    std::int64_t width, int threads) {
    const std::int64_t words = (planes + 31) / 32, pixels = height * width;
    check_at_least_one("threads", threads);
    check_pointer("bits", bits, {images, words, height, width});
    check_pointer("classes", classes, {images, planes});
    check_pointer("labels", labels, {images, height, width});
    check_frame("bits", height, width);
    for (std::int64_t i = 0; i < images * planes; ++i)
        if (classes[i] < -1 || classes[i] > kMaxClass)
            throw std::invalid_argument("classes holds " + std::to_string(classes[i]) +
                                        "; accepted: 0..253, or -1 for none");
    threads = threads_for(static_cast<double>(images * pixels) * (1 + 0.05 * static_cast<double>(planes)), threads);
    std::vector<std::vector<Claim>> claims(images);
    parallel_for(images, threads, [&](std::int64_t image) {
        claims[image] = find_claims(bits + image * words * pixels, classes + image * planes, planes, pixels);
    });
    const std::int64_t parts = images >= threads ? 1 : threads;
    parallel_for(images * parts, threads, [&](std::int64_t piece) {
        const std::int64_t image = piece / parts, first = part_begin(pixels, piece % parts, parts);
        const std::int64_t end = part_begin(pixels, piece % parts + 1, parts);
        rows().labels(bits + image * words * pixels + first, pixels, claims[image].data(),
                      static_cast<int>(claims[image].size()),
                      saliency == nullptr ? nullptr : saliency + image * pixels + first, theta_b, end - first,
                      labels + image * pixels + first);
    });
}

}  // namespace f2f
