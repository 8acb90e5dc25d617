// Warp-and-union of bit-plane masks along a clip.
#include <cstring>
#include <vector>

#include "check.h"
#include "kernels.h"
#include "parallel.h"

// The row loops are compiled for several instruction sets, and the best is picked when the library is loaded.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define F2F_SIMD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define F2F_SIMD_CLONES
#endif

namespace f2f {
namespace {

// A frame of words with a margin of zeros, so that taps outside the frame need no test: a place is clamped to
// -2..size, where both of its taps (place and place + 1) lie in the margin.
constexpr std::int64_t kMargin = 2;
constexpr std::int32_t kMaxFlowBits = 0x49800000;  // of the float 2^20

struct Frame {
    std::int64_t words, height, width;
    std::int64_t stride() const { return width + 2 * kMargin; }
    std::int64_t padded_plane() const { return (height + 2 * kMargin) * stride(); }
};

// Where to read for each pixel of one row: the nearest tap, the steps to its neighbours, and whether it decides alone.
struct RowTaps {
    explicit RowTaps(std::int64_t width) : nearest(width), step_x(width), step_y(width), alone(width) {}
    std::vector<std::int32_t> nearest, step_x, step_y, alone;
};

// The flow snapped to odd multiples of 1/512 px, q = 2 * floor(256 * flow) + 1; 1 where it is not valid. Compares of
// floats go by their bits: the compiler keeps a branch for what might trap, and would not vectorise the loop.
inline std::int32_t bits_of(float value) {
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}

inline bool is_valid(float flow_px) {  // |flow| <= 2^20; the bits of inf and NaN are larger
    return (bits_of(flow_px) & 0x7fffffff) <= kMaxFlowBits;
}

inline std::int32_t snap(float flow_px) {
    const std::int32_t kept = bits_of(flow_px) & -static_cast<std::int32_t>(is_valid(flow_px));
    float scaled;
    std::memcpy(&scaled, &kept, sizeof(kept));
    scaled *= 256.0f;
    const std::int32_t truncated = static_cast<std::int32_t>(scaled);
    const bool above = bits_of(static_cast<float>(truncated) - scaled) > 0;  // truncated > scaled
    return 2 * (truncated - above) + 1;
}

inline std::int32_t clamp_place(std::int32_t place, std::int32_t size) {
    place = place < -2 ? -2 : place;
    return place > size ? size : place;
}

F2F_SIMD_CLONES
void find_taps(const float* __restrict flow_x, const float* __restrict flow_y, std::int32_t y, std::int32_t height,
               std::int32_t width, std::int32_t stride, std::int32_t* __restrict nearest,
               std::int32_t* __restrict step_x, std::int32_t* __restrict step_y, std::int32_t* __restrict alone) {
    for (std::int32_t x = 0; x < width; ++x) {
        const std::int32_t qx = snap(flow_x[x]), qy = snap(flow_y[x]);
        const std::int32_t rest_x = qx & 511, rest_y = qy & 511;
        const std::int32_t right = rest_x > 256, below = rest_y > 256;  // is the higher tap the nearer one?
        const std::int32_t weight_x = right ? rest_x : 512 - rest_x, weight_y = below ? rest_y : 512 - rest_y;
        const std::int32_t outside = !(is_valid(flow_x[x]) & is_valid(flow_y[x]));
        const std::int32_t left = clamp_place(x + (qx >> 9), width), top = clamp_place(y + (qy >> 9), height);
        nearest[x] = outside ? stride + 1 : (top + 2 + below) * stride + left + 2 + right;
        step_x[x] = right | outside ? -1 : 1;
        step_y[x] = below | outside ? -stride : stride;
        alone[x] = -static_cast<std::int32_t>(weight_x * weight_y > (1 << 17));
    }
}

// out[x] = fresh[x] | the warped word: n & (h | v | d), or n where it decides alone, or h & v & d.
F2F_SIMD_CLONES
void unite_row(const std::int32_t* __restrict carried, const std::int32_t* __restrict fresh,
               const std::int32_t* __restrict nearest, const std::int32_t* __restrict step_x,
               const std::int32_t* __restrict step_y, const std::int32_t* __restrict alone, std::int64_t width,
               std::int32_t* __restrict out) {
    for (std::int64_t x = 0; x < width; ++x) {
        const std::int32_t at = nearest[x], at_v = at + step_y[x];
        const std::int32_t n = carried[at], h = carried[at + step_x[x]];
        const std::int32_t v = carried[at_v], d = carried[at_v + step_x[x]];
        out[x] = fresh[x] | (n & (h | v | d | alone[x])) | (h & v & d & ~alone[x]);
    }
}

// bits [words, height, width] -> the inside of padded [words, height + 4, width + 4].
void pad(const Frame& frame, const std::int32_t* bits, std::int32_t* padded) {
    for (std::int64_t word = 0; word < frame.words; ++word)
        for (std::int64_t y = 0; y < frame.height; ++y)
            std::memcpy(padded + word * frame.padded_plane() + (y + kMargin) * frame.stride() + kMargin,
                        bits + (word * frame.height + y) * frame.width, frame.width * sizeof(std::int32_t));
}

void unpad(const Frame& frame, const std::int32_t* padded, std::int32_t* bits) {
    for (std::int64_t word = 0; word < frame.words; ++word)
        for (std::int64_t y = 0; y < frame.height; ++y)
            std::memcpy(bits + (word * frame.height + y) * frame.width,
                        padded + word * frame.padded_plane() + (y + kMargin) * frame.stride() + kMargin,
                        frame.width * sizeof(std::int32_t));
}

// One step of the recurrence: united = fresh | W(carried, flow); carried and united are padded.
void warp_step(const Frame& frame, const std::int32_t* carried, const std::int32_t* fresh, const float* flow_xy_px,
               RowTaps& taps, std::int32_t* united) {
    const std::int64_t plane = frame.height * frame.width;
    for (std::int64_t y = 0; y < frame.height; ++y) {
        const float* flow_x = flow_xy_px + y * frame.width;
        find_taps(flow_x, flow_x + plane, static_cast<std::int32_t>(y), static_cast<std::int32_t>(frame.height),
                  static_cast<std::int32_t>(frame.width), static_cast<std::int32_t>(frame.stride()),
                  taps.nearest.data(), taps.step_x.data(), taps.step_y.data(), taps.alone.data());
        for (std::int64_t word = 0; word < frame.words; ++word)
            unite_row(carried + word * frame.padded_plane(), fresh + word * plane + y * frame.width,
                      taps.nearest.data(), taps.step_x.data(), taps.step_y.data(), taps.alone.data(), frame.width,
                      united + word * frame.padded_plane() + (y + kMargin) * frame.stride() + kMargin);
    }
}

void warp_clip(const Frame& frame, const std::int32_t* bits, const float* flow_xy_px, std::int64_t frames,
               std::int64_t kept, std::int32_t* carried) {
    const std::int64_t plane = frame.height * frame.width, masks = frame.words * plane;
    std::vector<std::int32_t> now(frame.words * frame.padded_plane()), next(now.size());
    RowTaps taps(frame.width);
    pad(frame, bits, now.data());
    for (std::int64_t k = 0; k < frames; ++k) {
        if (k > 0) {
            warp_step(frame, now.data(), bits + k * masks, flow_xy_px + (k - 1) * 2 * plane, taps, next.data());
            now.swap(next);
        }
        if (k + kept >= frames) unpad(frame, now.data(), carried + (k + kept - frames) * masks);
    }
}

}  // namespace

void warp_union(const std::int32_t* bits, const float* flow_xy_px, std::int32_t* carried, std::int64_t clips,
                std::int64_t frames, std::int64_t words, std::int64_t height, std::int64_t width, std::int64_t kept,
                int threads) {
    check_at_least_one("frames", frames);
    check_at_least_one("threads", threads);
    check_pointer("bits", bits, {clips, frames, words, height, width});
    check_pointer("flow_xy_px", flow_xy_px, {clips, frames - 1, 2, height, width});
    check_pointer("carried", carried, {clips, kept, words, height, width});
    check_frame("bits", height, width);
    if (kept != 1 && kept != frames)
        throw std::invalid_argument("carried keeps " + std::to_string(kept) + " frames; accepted: 1 or all " +
                                    std::to_string(frames));
    const Frame frame{words, height, width};
    const std::int64_t masks = words * height * width, flows = (frames - 1) * 2 * height * width;
    parallel_for(clips, threads, [&](std::int64_t clip) {
        warp_clip(frame, bits + clip * frames * masks, flow_xy_px + clip * flows, frames, kept,
                  carried + clip * kept * masks);
    });
}

}  // namespace f2f
