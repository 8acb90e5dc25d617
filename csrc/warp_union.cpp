// Warp-and-union of bit-plane masks along a clip.
#include <cstring>
#include <string>

#include "check.h"
#include "kernels.h"
#include "recurrence.h"
#include "rows.h"

namespace f2f {
namespace {

struct Shape {
    std::int64_t frames, words, height, width, kept;
    std::int64_t plane() const { return height * width; }
    std::int64_t masks() const { return words * plane(); }
};

struct Clip {
    const std::int32_t* bits;
    const float* flow_xy_px;
    std::int32_t* carried;
    std::int32_t* scratch;  // [words, height, width]
};

// Where frame k is written.
std::int32_t* place_of(const Shape& shape, const Clip& clip, std::int64_t k) {
    if (shape.kept > 1) return clip.carried + k * shape.masks();
    return place_in_turn(clip.carried, clip.scratch, shape.frames, k);
}

// carried[k] = bits[k] | W(carried[k - 1], flow[k - 1]) for rows first..end-1.
void warp_rows(const Shape& shape, const Clip& clip, std::int64_t k, std::int64_t first, std::int64_t end) {
    WarpRow row;
    row.carried = k > 1 ? place_of(shape, clip, k - 1) : clip.bits;
    row.height = static_cast<std::int32_t>(shape.height);
    row.width = static_cast<std::int32_t>(shape.width);
    row.words = static_cast<std::int32_t>(shape.words);
    row.plane = shape.plane();
    for (std::int64_t y = first; y < end; ++y) {
        row.y = static_cast<std::int32_t>(y);
        row.fresh = clip.bits + k * shape.masks() + y * shape.width;
        row.flow_x = clip.flow_xy_px + (k - 1) * 2 * shape.plane() + y * shape.width;
        row.flow_y = row.flow_x + shape.plane();
        row.united = place_of(shape, clip, k) + y * shape.width;
        rows().warp(row);
    }
}

// The first frame is its own union; it is only copied where it is asked for.
void copy_first(const Shape& shape, const Clip& clip) {
    if (shape.kept > 1 || shape.frames == 1) std::memcpy(clip.carried, clip.bits, shape.masks() * sizeof(std::int32_t));
}

void check(const Shape& shape, const std::int32_t* bits, const float* flow_xy_px, const std::int32_t* carried,
           std::int64_t clips, int threads) {
    check_at_least_one("frames", shape.frames);
    check_at_least_one("threads", threads);
    check_pointer("bits", bits, {clips, shape.frames, shape.words, shape.height, shape.width});
    check_pointer("flow_xy_px", flow_xy_px, {clips, shape.frames - 1, 2, shape.height, shape.width});
    check_pointer("carried", carried, {clips, shape.kept, shape.words, shape.height, shape.width});
    check_frame("bits", shape.height, shape.width);
    if (shape.kept != 1 && shape.kept != shape.frames)
        throw std::invalid_argument("carried keeps " + std::to_string(shape.kept) + " frames; accepted: 1 or all " +
                                    std::to_string(shape.frames));
}

}  // namespace

void warp_union(const std::int32_t* bits, const float* flow_xy_px, std::int32_t* carried, std::int64_t clips,
                std::int64_t frames, std::int64_t words, std::int64_t height, std::int64_t width, std::int64_t kept,
                int threads) {
    const Shape shape{frames, words, height, width, kept};
    check(shape, bits, flow_xy_px, carried, clips, threads);
    if (clips == 0 || shape.masks() == 0) return;
    threads = threads_for(1.5 * static_cast<double>(clips * (frames - 1) * shape.masks()), threads);
    run_recurrence<std::int32_t>(
        clips, frames, height, kept == 1 && frames > 2 ? shape.masks() : 0, threads,
        [&](std::int64_t number, std::int64_t k, std::int32_t* scratch, std::int64_t first, std::int64_t end) {
            const Clip clip{bits + number * frames * shape.masks(),
                            flow_xy_px + number * (frames - 1) * 2 * shape.plane(),
                            carried + number * kept * shape.masks(), scratch};
            if (k > 0) return warp_rows(shape, clip, k, first, end);
            if (first == 0) copy_first(shape, clip);
        });
}

}  // namespace f2f
