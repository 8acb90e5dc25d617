// One row of the warp-and-union (reference.py, `_warp_planes`). No include guard: see lanes.h.

namespace f2f::F2F_ISA {
namespace {

constexpr std::int32_t kMaxFlowBits = 0x49800000;  // of the float 2^20

F2F_INLINE Ints is_valid(Floats flow_px) {  // |flow| <= 2^20; the bits of inf and NaN are larger
    return ((Ints)flow_px & 0x7fffffff) <= kMaxFlowBits;
}

// floor(256 * flow), 0 where it is not valid. The reference's q is twice that plus one: the upper bits count pixels,
// the lowest eight, s, say where between two taps the sample lies, (2 s + 1) / 512.
F2F_INLINE Ints snap(Floats flow_px, Ints valid) { return floor_to_ints((Floats)((Ints)flow_px & valid) * 256.0f); }

// The four taps of every pixel of a vector, which of them is the nearest, and whether that one decides alone.
struct Taps {
    Ints shift_x, shift_y;  // from the pixel to the lower tap on each axis, px
    Ints right_is_near, below_is_near, alone;
    Ints valid;
};

// The weight of the nearer tap, 257..511, of 512.
F2F_INLINE Ints near_weight(Ints snapped, Ints higher_is_near) {
    return ((((snapped & 255) ^ ~higher_is_near) & 255) << 1) | 1;
}

F2F_INLINE Taps find_taps(Floats flow_x, Floats flow_y) {
    Taps taps;
    taps.valid = is_valid(flow_x) & is_valid(flow_y);
    const Ints x = snap(flow_x, taps.valid), y = snap(flow_y, taps.valid);
    taps.shift_x = x >> 8;
    taps.shift_y = y >> 8;
    taps.right_is_near = (x & 128) != 0;
    taps.below_is_near = (y & 128) != 0;
    taps.alone = near_weight(x, taps.right_is_near) * near_weight(y, taps.below_is_near) > (1 << 17);
    return taps;
}

F2F_INLINE Ints decide(const Taps& taps, Ints n, Ints h, Ints v, Ints d) {
    return (n & (h | v | d | taps.alone)) | (h & v & d & ~taps.alone);
}

// From the four taps by place to the four by distance.
F2F_INLINE Ints decide_at(const Taps& taps, Ints top_left, Ints top_right, Ints low_left, Ints low_right) {
    const Ints top_near = choose(taps.right_is_near, top_right, top_left);
    const Ints top_far = choose(taps.right_is_near, top_left, top_right);
    const Ints low_near = choose(taps.right_is_near, low_right, low_left);
    const Ints low_far = choose(taps.right_is_near, low_left, low_right);
    return decide(taps, choose(taps.below_is_near, low_near, top_near), choose(taps.below_is_near, low_far, top_far),
                  choose(taps.below_is_near, top_near, low_near), choose(taps.below_is_near, top_far, low_far));
}

// Optical flow is smooth: mostly a vector of pixels moves as one, and its taps are four plain loads.
F2F_INLINE Ints warp_together(const Taps& taps, const std::int32_t* top, const std::int32_t* low) {
    return decide_at(taps, load(top), load(top + 1), load(low), load(low + 1));
}

#if F2F_VECTOR_BYTES >= 32
// Or almost as one: then all taps lie within three rows of two vectors, and shuffles of those are cheaper than gathers.
struct Window {
    bool fits;
    std::int64_t offset;  // of its first word in a plane
    Ints at;              // the left taps' columns in it
    Ints lower;           // whose top tap is in the second row
};

F2F_INLINE Window find_window(const WarpRow& row, const Taps& taps, std::int32_t x) {
    constexpr std::int32_t lanes = kLanes<std::int32_t>;
    const Ints left = x + lane_numbers() + taps.shift_x, top = row.y + taps.shift_y;
    const std::int32_t last = row.width - 2 * lanes, middle = left[0] - lanes / 2;
    const std::int32_t first = middle > last ? last : middle < 0 ? 0 : middle;
    const std::int32_t first_row = all(top >= top[0]) ? top[0] : top[0] - 1;
    Window window;
    window.at = left - first;
    window.lower = top > first_row;
    window.offset = static_cast<std::int64_t>(first_row) * row.width + first;
    window.fits =
        last >= 0 && first_row >= 0 && first_row + 2 < row.height &&
        all(taps.valid & (window.at >= 0) & (window.at < 2 * lanes - 1) & (top >= first_row) & (top <= first_row + 1));
    return window;
}

F2F_INLINE Ints warp_window(const Taps& taps, const Window& window, const std::int32_t* carried, std::int32_t width) {
    const std::int32_t* rows[3] = {carried, carried + width, carried + 2 * width};
    Ints left[3], right[3];
    for (int row = 0; row < 3; ++row) {
        left[row] = pick_two(rows[row], window.at);
        right[row] = pick_two(rows[row], window.at + 1);
    }
    return decide_at(taps, choose(window.lower, left[1], left[0]), choose(window.lower, right[1], right[0]),
                     choose(window.lower, left[2], left[1]), choose(window.lower, right[2], right[1]));
}
#endif

// What a vector that moves as one reads, where part of it lies outside the frame: two short rows with zeros there.
struct BorderRows {
    std::int32_t top[kLanes<std::int32_t> + 1] = {}, low[kLanes<std::int32_t> + 1] = {};
};

F2F_INLINE BorderRows border_rows(const WarpRow& row, const std::int32_t* carried, std::int32_t left,
                                  std::int32_t top) {
    BorderRows rows;
    const std::int32_t begin = left < 0 ? -left : 0;
    const std::int32_t end = row.width - left <= kLanes<std::int32_t> ? row.width - left : kLanes<std::int32_t> + 1;
    if (begin >= end) return rows;
    const std::int32_t* from = carried + static_cast<std::int64_t>(top) * row.width + left + begin;
    if (top >= 0 && top < row.height) std::memcpy(rows.top + begin, from, (end - begin) * sizeof(*from));
    if (top >= -1 && top < row.height - 1)
        std::memcpy(rows.low + begin, from + row.width, (end - begin) * sizeof(*from));
    return rows;
}

F2F_INLINE Ints is_inside(Ints place, std::int32_t size) { return (place >= 0) & (place < size); }

// Where each pixel reads: offsets of the four taps in a plane, and which of them lie in the frame.
struct Places {
    Ints n, h, v, d, n_inside, h_inside, v_inside, d_inside;
};

F2F_INLINE Places find_places(const WarpRow& row, const Taps& taps, std::int32_t x) {
    const Ints left = x + lane_numbers() + taps.shift_x, top = row.y + taps.shift_y;
    const Ints near_x = left - taps.right_is_near, far_x = left + 1 + taps.right_is_near;
    const Ints near_y = top - taps.below_is_near, far_y = top + 1 + taps.below_is_near;
    const Ints near_x_inside = is_inside(near_x, row.width) & taps.valid;
    const Ints far_x_inside = is_inside(far_x, row.width) & taps.valid;
    const Ints near_y_inside = is_inside(near_y, row.height), far_y_inside = is_inside(far_y, row.height);
    const Ints near_row = near_y * row.width, far_row = far_y * row.width;
    return {near_row + near_x,
            near_row + far_x,
            far_row + near_x,
            far_row + far_x,
            near_y_inside & near_x_inside,
            near_y_inside & far_x_inside,
            far_y_inside & near_x_inside,
            far_y_inside & far_x_inside};
}

F2F_INLINE Ints warp_apart(const Taps& taps, const Places& places, const std::int32_t* carried) {
    return decide(taps, gather(carried, places.n, places.n_inside), gather(carried, places.h, places.h_inside),
                  gather(carried, places.v, places.v_inside), gather(carried, places.d, places.d_inside));
}

// Calls write(offset of the word's plane, warped words of the pixels from x on) for every word.
template <typename Write>
F2F_INLINE void warp_vector(const WarpRow& row, Floats flow_x, Floats flow_y, std::int32_t x, const Write& write) {
    const Taps taps = find_taps(flow_x, flow_y);
    const std::int64_t all_words = row.words * row.plane;
    if (!all((taps.shift_x == taps.shift_x[0]) & (taps.shift_y == taps.shift_y[0]) & taps.valid)) {
#if F2F_VECTOR_BYTES >= 32
        if (const Window window = find_window(row, taps, x); window.fits) {
            const std::int32_t* from = row.carried + window.offset;
            for (std::int64_t at = 0; at < all_words; at += row.plane)
                write(at, warp_window(taps, window, from + at, row.width));
            return;
        }
#endif
        const Places places = find_places(row, taps, x);
        for (std::int64_t at = 0; at < all_words; at += row.plane)
            write(at, warp_apart(taps, places, row.carried + at));
        return;
    }
    const std::int32_t left = x + taps.shift_x[0], top = row.y + taps.shift_y[0];
    if (left >= 0 && left + kLanes<std::int32_t> < row.width && top >= 0 && top + 1 < row.height) {
        const std::int32_t* from = row.carried + static_cast<std::int64_t>(top) * row.width + left;
        for (std::int64_t at = 0; at < all_words; at += row.plane)
            write(at, warp_together(taps, from + at, from + at + row.width));
        return;
    }
    for (std::int64_t at = 0; at < all_words; at += row.plane) {
        const BorderRows rows = border_rows(row, row.carried + at, left, top);
        write(at, warp_together(taps, rows.top, rows.low));
    }
}

// A row narrower than a vector: the flow is copied into one, and only the row's own words are written.
void warp_narrow(const WarpRow& row) {
    float flow_x[kLanes<float>] = {}, flow_y[kLanes<float>] = {};
    std::memcpy(flow_x, row.flow_x, row.width * sizeof(float));
    std::memcpy(flow_y, row.flow_y, row.width * sizeof(float));
    warp_vector(row, load(flow_x), load(flow_y), 0, [&](std::int64_t at, Ints warped) {
        for (std::int32_t x = 0; x < row.width; ++x) row.united[at + x] = row.fresh[at + x] | warped[x];
    });
}

F2F_INLINE void warp_wide(const WarpRow& row, std::int32_t x) {
    warp_vector(row, load(row.flow_x + x), load(row.flow_y + x), x,
                [&](std::int64_t at, Ints warped) { store(row.united + at + x, load(row.fresh + at + x) | warped); });
}

void warp(const WarpRow& row) {
    constexpr std::int32_t lanes = kLanes<std::int32_t>;
    if (row.width < lanes) return warp_narrow(row);
    for (std::int32_t x = 0; x + lanes <= row.width; x += lanes) warp_wide(row, x);
    if (row.width % lanes != 0) warp_wide(row, row.width - lanes);  // overlaps what is done: the same words again
}

}  // namespace
}  // namespace f2f::F2F_ISA
