// Soft warp-and-union of activation maps along a clip, gated by consistency.
#include <cstring>

#include "check.h"
#include "kernels.h"
#include "recurrence.h"
#include "rows.h"

namespace f2f {
namespace {

struct Shape {
    std::int64_t frames, planes, height, width;
    std::int64_t plane() const { return height * width; }
    std::int64_t maps() const { return planes * plane(); }
    std::int64_t flow() const { return (frames - 1) * 2 * plane(); }
};

struct Clip {
    const float* maps;
    const float* flow_xy_px;
    const float* return_xy_px;
    float* united;
    float* scratch;  // [planes, height, width]
};

// union[k] = max(maps[k], W(union[k - 1])) for rows first..end-1.
void unite_rows(const Shape& shape, const Clip& clip, std::int64_t k, std::int64_t first, std::int64_t end) {
    SoftRow row;
    row.carried = k > 1 ? place_in_turn(clip.united, clip.scratch, shape.frames, k - 1) : clip.maps;
    row.back_x = clip.return_xy_px + (k - 1) * 2 * shape.plane();
    row.back_y = row.back_x + shape.plane();
    row.height = static_cast<std::int32_t>(shape.height);
    row.width = static_cast<std::int32_t>(shape.width);
    row.planes = static_cast<std::int32_t>(shape.planes);
    row.plane = shape.plane();
    for (std::int64_t y = first; y < end; ++y) {
        row.y = static_cast<std::int32_t>(y);
        row.fresh = clip.maps + k * shape.maps() + y * shape.width;
        row.flow_x = clip.flow_xy_px + (k - 1) * 2 * shape.plane() + y * shape.width;
        row.flow_y = row.flow_x + shape.plane();
        row.united = place_in_turn(clip.united, clip.scratch, shape.frames, k) + y * shape.width;
        rows().soft_warp(row);
    }
}

void check(const Shape& shape, const float* maps, const float* flow_xy_px, const float* return_xy_px,
           const float* united, std::int64_t clips, int threads) {
    check_at_least_one("frames", shape.frames);
    check_at_least_one("threads", threads);
    check_pointer("maps", maps, {clips, shape.frames, shape.planes, shape.height, shape.width});
    check_pointer("flow_xy_px", flow_xy_px, {clips, shape.frames - 1, 2, shape.height, shape.width});
    check_pointer("return_xy_px", return_xy_px, {clips, shape.frames - 1, 2, shape.height, shape.width});
    check_pointer("united", united, {clips, shape.planes, shape.height, shape.width});
    check_frame("maps", shape.height, shape.width);
}

}  // namespace

void soft_union(const float* maps, const float* flow_xy_px, const float* return_xy_px, float* united,
                std::int64_t clips, std::int64_t frames, std::int64_t planes, std::int64_t height, std::int64_t width,
                int threads) {
    const Shape shape{frames, planes, height, width};
    check(shape, maps, flow_xy_px, return_xy_px, united, clips, threads);
    if (clips == 0 || shape.maps() == 0) return;
    threads = threads_for(3.0 * static_cast<double>(clips * (frames - 1) * (shape.maps() + shape.plane())), threads);
    run_recurrence<float>(
        clips, frames, height, frames > 2 ? shape.maps() : 0, threads,
        [&](std::int64_t number, std::int64_t k, float* scratch, std::int64_t first, std::int64_t end) {
            const Clip clip{maps + number * frames * shape.maps(), flow_xy_px + number * shape.flow(),
                            return_xy_px + number * shape.flow(), united + number * shape.maps(), scratch};
            if (k > 0) return unite_rows(shape, clip, k, first, end);
            if (frames == 1 && first == 0) std::memcpy(clip.united, clip.maps, shape.maps() * sizeof(float));
        });
}

}  // namespace f2f
