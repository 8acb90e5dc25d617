// Rows of the cost volume and of its gradient. Sums over channels run in another order than the reference's, and fuse
// multiply and add where the machine can. No include guard: see lanes.h.

namespace f2f::F2F_ISA {
namespace {

#define F2F_UNROLL _Pragma("GCC unroll 32")  // so that sums stay in registers

constexpr int kCostRows =
    F2F_VECTOR_BYTES == 64 ? 3 : 1;  // pixel rows that share a load of f2: 27 sums of 32 registers
constexpr int kShifts = 9;           // columns of the neighbourhood worked on together
constexpr int kChannels = F2F_VECTOR_BYTES == 64 ? 16 : 8;  // gradients of channels that share a load of the gradient

template <typename T>
F2F_INLINE Vector<T> tapped(const SampleRow<T>& row, const T* plane, int tap, std::int64_t x) {
    const std::int32_t* at = row.at[tap] + x;
    if (row.together[x / kLanes<T>]) return load(plane + at[0]);
    if constexpr (sizeof(T) == sizeof(float)) return gather(plane, load(at));
    Vector<T> values;
    for (int lane = 0; lane < kLanes<T>; ++lane) values[lane] = plane[at[lane]];
    return values;
}

template <typename T>
void sample(const SampleRow<T>& row, const T* plane, T* sampled) {
    std::int64_t x = 0;
    for (; x + kLanes<T> <= row.width; x += kLanes<T>) {
        Vector<T> sum = {};
        for (int tap = 0; tap < 4; ++tap) sum += tapped(row, plane, tap, x) * load(row.weight[tap] + x);
        store<T>(sampled + x, sum);
    }
    for (; x < row.width; ++x) {
        sampled[x] = 0;
        for (int tap = 0; tap < 4; ++tap) sampled[x] += plane[row.at[tap][x]] * row.weight[tap][x];
    }
}

template <typename T>
void sum_taps(const SampleRow<T>& row, const T* plane, const T* gradient, T* const* sums) {
    std::int64_t x = 0;
    for (; x + kLanes<T> <= row.width; x += kLanes<T>)
        for (int tap = 0; tap < 4; ++tap)
            store<T>(sums[tap] + x, multiply_add(tapped(row, plane, tap, x), load(gradient + x), load(sums[tap] + x)));
    for (; x < row.width; ++x)
        for (int tap = 0; tap < 4; ++tap) sums[tap][x] += plane[row.at[tap][x]] * gradient[x];
}

template <typename T>
void spread(const SampleRow<T>& row, const T* gradient, T* plane) {
    std::int64_t x = 0;
    for (; x + kLanes<T> <= row.width; x += kLanes<T>)
        for (int tap = 0; tap < 4; ++tap) {
            const std::int32_t* at = row.at[tap] + x;
            const T* weight = row.weight[tap] + x;
            if (row.together[x / kLanes<T>])
                store<T>(plane + at[0], multiply_add(load(gradient + x), load(weight), load(plane + at[0])));
            else
                for (int lane = 0; lane < kLanes<T>; ++lane) plane[at[lane]] += gradient[x + lane] * weight[lane];
        }
    for (; x < row.width; ++x)
        for (int tap = 0; tap < 4; ++tap) plane[row.at[tap][x]] += gradient[x] * row.weight[tap][x];
}

// A vector of f1 of all pixel rows and channels, [channels, kCostRows, lanes]: it is read for every row of f2.
template <typename T>
void fill_tile(const CostRows<T>& rows, std::int64_t x) {
    for (std::int64_t c = 0; c < rows.channels; ++c)
        for (int row = 0; row < rows.rows; ++row)
            store<T>(rows.tile + (c * kCostRows + row) * kLanes<T>,
                     load_within(rows.f1 + c * rows.plane + row * rows.width + x, 0, rows.width - x));
}

// Pixel rows first .. first + Used - 1 against `Shifts` columns of row `line` of f2 (row 0: `reach` above pixel row 0).
template <typename T, int Used, int Shifts>
void cost_block(const CostRows<T>& rows, int first, int line, int shift_from, std::int64_t x) {
    Vector<T> sums[Used][Shifts];
    F2F_UNROLL for (int sum = 0; sum < Used * Shifts; ++sum) sums[sum / Shifts][sum % Shifts] = Vector<T>{};
    const T* here = rows.tile + first * kLanes<T>;
    const T* there = rows.f2[line] + x + shift_from;
    for (std::int64_t c = 0; c < rows.channels; ++c, here += kCostRows * kLanes<T>, there += rows.stride)
        F2F_UNROLL for (int shift = 0; shift < Shifts; ++shift) {
            const Vector<T> shifted = load_once(there + shift);
            F2F_UNROLL for (int row = 0; row < Used; ++row) sums[row][shift] =
                multiply_add(load(here + row * kLanes<T>), shifted, sums[row][shift]);
        }
    const int side = 2 * rows.reach + 1;
    const Vector<T> share = splat(T(1) / static_cast<T>(rows.channels));
    F2F_UNROLL for (int sum = 0; sum < Used * Shifts; ++sum) {
        const int row = sum / Shifts, shift = sum % Shifts, plane = (line - first - row) * side + shift_from + shift;
        store_first<T>(rows.costs + plane * rows.plane + (first + row) * rows.width + x, sums[row][shift] * share,
                       rows.width - x);
    }
}

template <typename T, int Shifts>
void cost_line(const CostRows<T>& rows, int line, int shift_from, std::int64_t x) {
    const int first = line - 2 * rows.reach > 0 ? line - 2 * rows.reach : 0;
    const int last = line < rows.rows - 1 ? line : rows.rows - 1;
    switch (last - first) {
        case 0:
            return cost_block<T, 1, Shifts>(rows, first, line, shift_from, x);
        case 1:
            return cost_block<T, (kCostRows > 1 ? 2 : 1), Shifts>(rows, first, line, shift_from, x);
        default:
            return cost_block<T, kCostRows, Shifts>(rows, first, line, shift_from, x);
    }
}

template <typename T>
void costs(const CostRows<T>& rows) {
    const int side = 2 * rows.reach + 1;
    for (std::int64_t x = 0; x < rows.width; x += kLanes<T>) {
        fill_tile(rows, x);
        for (int line = 0; line < rows.rows + 2 * rows.reach; ++line) {
            int shift = 0;
            for (; shift + kShifts <= side; shift += kShifts) cost_line<T, kShifts>(rows, line, shift, x);
            for (; shift < side; ++shift) cost_line<T, 1>(rows, line, shift, x);
        }
    }
}

// The costs' gradient that displacement (dy, dx) contributes at a vector of pixels; dy, dx = 0..2 * reach.
template <typename T>
F2F_INLINE Vector<T> of_costs(const GradientRow<T>& row, int dy, int dx, std::int64_t x) {
    const int side = 2 * row.reach + 1, k = dy * side + dx;
    const std::int64_t plane = row.height * row.width;
    if (!row.mirrored) return load_within(row.of_costs + k * plane + row.y * row.width + x, 0, row.width - x);
    const std::int64_t from_y = row.y + dy - row.reach, from_x = x + dx - row.reach;
    const T* from = row.of_costs + (side * side - 1 - k) * plane + from_y * row.width;
    return load_within(from + from_x, -from_x, row.width - from_x);
}

template <typename T, int Used>
F2F_INLINE void gradient_block(const GradientRow<T>& row, std::int64_t channel, std::int64_t x) {
    const int side = 2 * row.reach + 1;
    Vector<T> sums[Used];
    F2F_UNROLL for (int c = 0; c < Used; ++c) sums[c] = Vector<T>{};
    for (int dy = 0; dy < side; ++dy) {
        const std::int64_t from_y = row.y + dy - row.reach;
        if (from_y < 0 || from_y >= row.height) continue;  // there the features are zero, or the costs' gradient
        const T* features = row.features[dy] + channel * row.stride + x;
        for (int dx = 0; dx < side; ++dx) {
            const Vector<T> gradient = of_costs(row, dy, dx, x);
            F2F_UNROLL for (int c = 0; c < Used; ++c) sums[c] =
                multiply_add(gradient, load(features + c * row.stride + dx), sums[c]);
        }
    }
    F2F_UNROLL for (int c = 0; c < Used; ++c)
        store_first<T>(row.to + (channel + c) * row.height * row.width + x, sums[c] * row.scale, row.width - x);
}

template <typename T>
void gradient(const GradientRow<T>& row) {
    for (std::int64_t x = 0; x < row.width; x += kLanes<T>) {
        std::int64_t channel = 0;
        for (; channel + kChannels <= row.channels; channel += kChannels) gradient_block<T, kChannels>(row, channel, x);
        for (; channel < row.channels; ++channel) gradient_block<T, 1>(row, channel, x);
    }
}

}  // namespace
}  // namespace f2f::F2F_ISA
