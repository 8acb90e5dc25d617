// Warp-and-union of bit-plane masks along a clip.
#include <cstring>
#include <string>

#include "check.h"
#include "kernels.h"
#include "parallel.h"
#include "rows.h"
#include "scratch.h"

namespace f2f {
namespace {

struct Shape {
    std::int64_t frames, words, height, width, kept;
    std::int64_t plane() const { return height * width; }
    std::int64_t masks() const { return words * plane(); }
};

using Words = Scratch<std::int32_t>;

Words scratch_for(const Shape& shape) {
    const bool needed = shape.kept == 1 && shape.frames > 2;
    return make_scratch<std::int32_t>(needed ? shape.masks() : 0);
}

struct Clip {
    const std::int32_t* bits;
    const float* flow_xy_px;
    std::int32_t* carried;
    std::int32_t* scratch;  // [words, height, width]
};

// Where step k of the recurrence is written: its place in the output, or in turn the scratch and the output, such
// that the last step ends in the output.
std::int32_t* place_of(const Shape& shape, const Clip& clip, std::int64_t k) {
    if (shape.kept > 1) return clip.carried + k * shape.masks();
    return (shape.frames - 1 - k) % 2 == 0 ? clip.carried : clip.scratch;
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

// All steps of a clip for rows first..end-1; `wait` returns when every other part of the step is done too.
template <typename Wait>
void warp_clip(const Shape& shape, const Clip& clip, std::int64_t first, std::int64_t end, const Wait& wait) {
    if (first == 0 && (shape.kept > 1 || shape.frames == 1))
        std::memcpy(clip.carried, clip.bits, shape.masks() * sizeof(std::int32_t));
    for (std::int64_t k = 1; k < shape.frames; ++k) {
        warp_rows(shape, clip, k, first, end);
        wait();
    }
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
    const auto clip_at = [&](std::int64_t clip, const Words& scratch) {
        return Clip{bits + clip * frames * shape.masks(), flow_xy_px + clip * (frames - 1) * 2 * shape.plane(),
                    carried + clip * kept * shape.masks(), scratch.get()};
    };
    // As many clips as keep every thread busy go one to a thread; what remains is cut into rows.
    const std::int64_t whole = clips - clips % threads;
    parallel_for(whole, threads, [&](std::int64_t clip) {
        const Words scratch = scratch_for(shape);
        warp_clip(shape, clip_at(clip, scratch), 0, height, [] {});
    });
    if (whole == clips) return;
    const Words scratch = scratch_for(shape);
    const int members = static_cast<int>(std::min<std::int64_t>(threads, height));
    std::barrier barrier(members);
    run_team(members, [&](int member) {
        const std::int64_t first = part_begin(height, member, members), end = part_begin(height, member + 1, members);
        for (std::int64_t clip = whole; clip < clips; ++clip)
            warp_clip(shape, clip_at(clip, scratch), first, end, [&] { barrier.arrive_and_wait(); });
    });
}

}  // namespace f2f
