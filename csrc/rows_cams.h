// Rows of activate_cams (reference.py, `_upsample`): multiplies, adds and maxima in the reference's order. No include
// guard: see lanes.h.

namespace f2f::F2F_ISA {
namespace {

constexpr int kCamVectors = 4;  // worked on together, so that a CAM's weights are read once for all of them
constexpr int kCamBlock = kCamVectors * kLanes<float>;

// The values of a vector of taps. A CAM is small and its taps are in order: mostly all lie within one vector of it.
F2F_INLINE Floats tapped(const float* row, Ints at) {
    const std::int32_t first = at[0], last = at[kLanes<float> - 1], base = first < last ? first : last;
    const Ints offset = at - base;
    return all((offset >= 0) & (offset < kLanes<float>)) ? pick(row + base, offset) : gather(row, at);
}

// A CAM's row, made as wide as the frame; `row` can be read a vector beyond its end.
void cam_columns(const float* row, const std::int32_t* low, const std::int32_t* high, const float* low_weight,
                 const float* high_weight, std::int64_t width, float* wide) {
    std::int64_t x = 0;
    for (; x + kLanes<float> <= width; x += kLanes<float>)
        store<float>(wide + x, tapped(row, load(low + x)) * load(low_weight + x) +
                                   tapped(row, load(high + x)) * load(high_weight + x));
    for (; x < width; ++x) wide[x] = row[low[x]] * low_weight[x] + row[high[x]] * high_weight[x];
}

struct CamBlock {
    Floats strongest[kCamVectors];
};

// The strongest of 0 and all CAMs; a NaN is passed over.
F2F_INLINE CamBlock strongest_of(const CamRows* maps, int count, std::int64_t x) {
    CamBlock block = {};
    for (int map = 0; map < count; ++map) {
        const Floats low_weight = splat(maps[map].low_weight), high_weight = splat(maps[map].high_weight);
        for (int i = 0; i < kCamVectors; ++i) {
            const Floats low = load(maps[map].low + x + i * kLanes<float>) * low_weight;
            const Floats high = load(maps[map].high + x + i * kLanes<float>) * high_weight;
            block.strongest[i] = larger(low + high, block.strongest[i]);
        }
    }
    return block;
}

float cam_peak(const CamRows* maps, int count, std::int64_t width) {
    Floats peak = {};
    for (std::int64_t x = 0; x < width; x += kCamBlock) {
        const CamBlock block = strongest_of(maps, count, x);
        for (const Floats& strongest : block.strongest) peak = larger(strongest, peak);
    }
    float highest = 0;
    for (int lane = 0; lane < kLanes<float>; ++lane) highest = peak[lane] > highest ? peak[lane] : highest;
    return highest;
}

// Sets `bit` of the words where the strongest exceeds the threshold.
void cam_bits(const CamRows* maps, int count, std::int64_t width, float threshold, std::int32_t bit,
              std::int32_t* words) {
    for (std::int64_t x = 0; x < width; x += kCamBlock) {
        const CamBlock block = strongest_of(maps, count, x);
        std::int32_t active[kCamBlock];
        for (int i = 0; i < kCamVectors; ++i)
            store(active + i * kLanes<float>, Ints(block.strongest[i] > splat(threshold)) & splat(bit));
        const std::int64_t pixels = width - x < kCamBlock ? width - x : kCamBlock;
        for (std::int64_t i = 0; i < pixels; ++i) words[x + i] |= active[i];
    }
}

}  // namespace
}  // namespace f2f::F2F_ISA
