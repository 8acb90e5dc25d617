// One row of the warp-and-union (reference.py, `_warp_planes`). No include guard: see lanes.h.

namespace f2f::F2F_ISA {
namespace {

constexpr float kMaxFlowPx = 1048576.0f;  // 2^20

F2F_INLINE Ints is_valid(Floats flow_px) {  // false for NaN
    return (flow_px <= splat(kMaxFlowPx)) & (flow_px >= splat(-kMaxFlowPx));
}

// The flow in odd multiples of 1/512 px, q = 2 * floor(256 * flow) + 1; 1 where it is not valid.
F2F_INLINE Ints snap(Floats flow_px, Ints valid) {
    const Floats scaled = (Floats)((Ints)flow_px & valid) * 256.0f;
    const Ints truncated = to_ints(scaled);
    const Ints above = to_floats(truncated) > scaled;  // -1 where truncation went up
    return 2 * (truncated + above) + 1;
}

// The four taps of every pixel of a vector, which of them is the nearest, and whether that one decides alone.
struct Taps {
    Ints left, top;            // the lower tap on each axis, px
    Ints right_is_near, below_is_near, alone;
    Ints valid;
};

F2F_INLINE Taps find_taps(Floats flow_x, Floats flow_y, Ints x, std::int32_t y) {
    Taps taps;
    taps.valid = is_valid(flow_x) & is_valid(flow_y);
    const Ints qx = snap(flow_x, taps.valid), qy = snap(flow_y, taps.valid);
    const Ints rest_x = qx & 511, rest_y = qy & 511;
    taps.left = x + (qx >> 9);
    taps.top = y + (qy >> 9);
    taps.right_is_near = rest_x > 256;
    taps.below_is_near = rest_y > 256;
    const Ints weight_x = choose(taps.right_is_near, rest_x, 512 - rest_x);
    const Ints weight_y = choose(taps.below_is_near, rest_y, 512 - rest_y);
    taps.alone = weight_x * weight_y > (1 << 17);
    return taps;
}

F2F_INLINE Ints decide(const Taps& taps, Ints n, Ints h, Ints v, Ints d) {
    return (n & (h | v | d | taps.alone)) | (h & v & d & ~taps.alone);
}

// Optical flow is smooth: mostly a vector of pixels moves as one, and its taps are four plain loads.
F2F_INLINE Ints warp_together(const Taps& taps, const std::int32_t* left_top, std::int32_t width) {
    const Ints top_left = load(left_top), top_right = load(left_top + 1);
    const Ints low_left = load(left_top + width), low_right = load(left_top + width + 1);
    const Ints top_near = choose(taps.right_is_near, top_right, top_left);
    const Ints top_far = choose(taps.right_is_near, top_left, top_right);
    const Ints low_near = choose(taps.right_is_near, low_right, low_left);
    const Ints low_far = choose(taps.right_is_near, low_left, low_right);
    return decide(taps, choose(taps.below_is_near, low_near, top_near), choose(taps.below_is_near, low_far, top_far),
                  choose(taps.below_is_near, top_near, low_near), choose(taps.below_is_near, top_far, low_far));
}

F2F_INLINE Ints is_inside(Ints place, std::int32_t size) { return (place >= 0) & (place < size); }

// Where each pixel reads: offsets of the four taps in a plane, and which of them lie in the frame.
struct Places {
    Ints n, h, v, d, n_inside, h_inside, v_inside, d_inside;
};

F2F_INLINE Places find_places(const Taps& taps, std::int32_t height, std::int32_t width) {
    const Ints near_x = taps.left - taps.right_is_near, far_x = taps.left + 1 + taps.right_is_near;
    const Ints near_y = taps.top - taps.below_is_near, far_y = taps.top + 1 + taps.below_is_near;
    const Ints near_x_inside = is_inside(near_x, width) & taps.valid, far_x_inside = is_inside(far_x, width) & taps.valid;
    const Ints near_y_inside = is_inside(near_y, height), far_y_inside = is_inside(far_y, height);
    const Ints near_row = near_y * width, far_row = far_y * width;
    return {near_row + near_x,  near_row + far_x,  far_row + near_x,  far_row + far_x,
            near_y_inside & near_x_inside, near_y_inside & far_x_inside,
            far_y_inside & near_x_inside,  far_y_inside & far_x_inside};
}

F2F_INLINE void warp_vector(const WarpRow& row, std::int32_t x) {
    const Taps taps = find_taps(load(row.flow_x + x), load(row.flow_y + x), x + lane_numbers(), row.y);
    const std::int32_t left = taps.left[0], top = taps.top[0];
    const bool within = left >= 0 && left + kLanes<std::int32_t> < row.width && top >= 0 && top + 1 < row.height;
    if (within && all((taps.left - lane_numbers() == left) & (taps.top == top) & taps.valid)) {
        const std::int32_t* left_top = row.carried + static_cast<std::int64_t>(top) * row.width + left;
        for (std::int64_t at = 0; at < row.words * row.plane; at += row.plane)
            store(row.united + at + x, load(row.fresh + at + x) | warp_together(taps, left_top + at, row.width));
        return;
    }
    const Places p = find_places(taps, row.height, row.width);
    for (std::int64_t at = 0; at < row.words * row.plane; at += row.plane) {
        const std::int32_t* carried = row.carried + at;
        const Ints warped = decide(taps, gather(carried, p.n, p.n_inside), gather(carried, p.h, p.h_inside),
                                   gather(carried, p.v, p.v_inside), gather(carried, p.d, p.d_inside));
        store(row.united + at + x, load(row.fresh + at + x) | warped);
    }
}

// A row narrower than a vector is worked on in a copy that is as wide as one.
void warp_narrow(const WarpRow& row) {
    constexpr int lanes = kLanes<std::int32_t>;
    float flow_x[lanes] = {}, flow_y[lanes] = {};
    std::memcpy(flow_x, row.flow_x, row.width * sizeof(float));
    std::memcpy(flow_y, row.flow_y, row.width * sizeof(float));
    const Taps taps = find_taps(load(flow_x), load(flow_y), lane_numbers(), row.y);
    const Places p = find_places(taps, row.height, row.width);
    for (std::int64_t at = 0; at < row.words * row.plane; at += row.plane) {
        const std::int32_t* carried = row.carried + at;
        const Ints warped = decide(taps, gather(carried, p.n, p.n_inside), gather(carried, p.h, p.h_inside),
                                   gather(carried, p.v, p.v_inside), gather(carried, p.d, p.d_inside));
        for (std::int32_t x = 0; x < row.width; ++x) row.united[at + x] = row.fresh[at + x] | warped[x];
    }
}

void warp(const WarpRow& row) {
    constexpr std::int32_t lanes = kLanes<std::int32_t>;
    if (row.width < lanes) return warp_narrow(row);
    for (std::int32_t x = 0; x + lanes <= row.width; x += lanes) warp_vector(row, x);
    if (row.width % lanes != 0) warp_vector(row, row.width - lanes);  // overlaps what is done: the same words again
}

}  // namespace
}  // namespace f2f::F2F_ISA
