// One row of the soft warp-and-union (reference_soft.py). No include guard: see lanes.h.

namespace f2f::F2F_ISA {
namespace {

constexpr float kConsistentShare = 0.01f, kConsistentPx2 = 0.5f;

// Where each pixel of a vector samples a plane: the taps' offsets, and the weights of those to the right and below.
struct Bilinear {
    Ints top_left, top_right, low_left, low_right;
    Floats right_share, low_share;
};

F2F_INLINE Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }

F2F_INLINE Floats where(Ints mask, Floats v) { return (Floats)((Ints)v & mask); }

F2F_INLINE Ints at_most(Ints v, std::int32_t most) { return choose(v > most, Ints{} + most, v); }

// Of places x, y within the frame.
F2F_INLINE Bilinear find_bilinear(const SoftRow& row, Floats x, Floats y) {
    const Ints left = at_most(floor_to_ints(x), row.width > 1 ? row.width - 2 : 0);
    const Ints top = at_most(floor_to_ints(y), row.height > 1 ? row.height - 2 : 0);
    const std::int32_t right = row.width > 1 ? 1 : 0, below = row.height > 1 ? row.width : 0;
    const Ints first = top * row.width + left;
    return {first, first + right, first + below, first + below + right, x - to_floats(left), y - to_floats(top)};
}

F2F_INLINE Floats sample_at(const Bilinear& at, const float* plane) {
    const Floats left_share = 1.0f - at.right_share, top_share = 1.0f - at.low_share;
    const Floats top = gather(plane, at.top_left) * left_share + gather(plane, at.top_right) * at.right_share;
    const Floats low = gather(plane, at.low_left) * left_share + gather(plane, at.low_right) * at.right_share;
    return top * top_share + low * at.low_share;
}

F2F_INLINE Ints is_consistent(Floats x, Floats y, Floats back_x, Floats back_y) {
    const Floats lengths = (x * x + y * y) + (back_x * back_x + back_y * back_y);
    const Floats apart = (x + back_x) * (x + back_x) + (y + back_y) * (y + back_y);
    return apart < kConsistentShare * lengths + kConsistentPx2;
}

// Calls write(offset of the plane, what is carried to the pixels from x on) for every plane.
template <typename Write>
F2F_INLINE void soft_vector(const SoftRow& row, Floats flow_x, Floats flow_y, std::int32_t x, const Write& write) {
    const Floats to_x = flow_x + to_floats(lane_numbers() + x), to_y = flow_y + static_cast<float>(row.y);
    const Ints inside = (to_x >= 0.0f) & (to_x <= static_cast<float>(row.width - 1)) & (to_y >= 0.0f) &
                        (to_y <= static_cast<float>(row.height - 1));
    const Bilinear at = find_bilinear(row, where(inside, to_x), where(inside, to_y));
    const Ints kept = inside & is_consistent(flow_x, flow_y, sample_at(at, row.back_x), sample_at(at, row.back_y));
    const bool none = all(kept == 0);
    for (std::int32_t number = 0; number < row.planes; ++number) {
        const std::int64_t offset = number * row.plane;
        write(offset, none ? Floats{} : where(kept, sample_at(at, row.carried + offset)));
    }
}

// A row narrower than a vector: the flow is copied into one, and only the row's own values are written.
void soft_narrow(const SoftRow& row) {
    float flow_x[kLanes<float>] = {}, flow_y[kLanes<float>] = {};
    std::memcpy(flow_x, row.flow_x, row.width * sizeof(float));
    std::memcpy(flow_y, row.flow_y, row.width * sizeof(float));
    for (std::int32_t lane = row.width; lane < kLanes<float>; ++lane) flow_x[lane] = -1e6f;  // out of the frame
    soft_vector(row, load(flow_x), load(flow_y), 0, [&](std::int64_t at, Floats carried) {
        for (std::int32_t x = 0; x < row.width; ++x)
            row.united[at + x] = row.fresh[at + x] > carried[x] ? row.fresh[at + x] : carried[x];
    });
}

F2F_INLINE void soft_wide(const SoftRow& row, std::int32_t x) {
    soft_vector(row, load(row.flow_x + x), load(row.flow_y + x), x, [&](std::int64_t at, Floats carried) {
        store(row.united + at + x, larger(load(row.fresh + at + x), carried));
    });
}

void soft_warp(const SoftRow& row) {
    constexpr std::int32_t lanes = kLanes<std::int32_t>;
    if (row.width < lanes) return soft_narrow(row);
    for (std::int32_t x = 0; x + lanes <= row.width; x += lanes) soft_wide(row, x);
    if (row.width % lanes != 0) soft_wide(row, row.width - lanes);  // overlaps what is done: the same values again
}

}  // namespace
}  // namespace f2f::F2F_ISA
