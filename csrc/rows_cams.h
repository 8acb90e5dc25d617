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

// The CAM at one vector of pixels.
F2F_INLINE Floats between(const CamRows& map, Floats low_weight, Floats high_weight, std::int64_t x) {
    return load(map.low + x) * low_weight + load(map.high + x) * high_weight;
}

// The highest value of 0 and all CAMs in one block; a NaN is passed over.
float cam_peak(const CamRows* maps, const std::int32_t* chosen, int count, std::int64_t x) {
    Floats strongest[kCamVectors] = {};
    for (int place = 0; place < count; ++place) {
        const CamRows& map = maps[chosen[place]];
        const Floats low_weight = splat(map.low_weight), high_weight = splat(map.high_weight);
        for (int i = 0; i < kCamVectors; ++i)
            strongest[i] = larger(between(map, low_weight, high_weight, x + i * kLanes<float>), strongest[i]);
    }
    Floats peak = strongest[0];
    for (int i = 1; i < kCamVectors; ++i) peak = larger(strongest[i], peak);
    float highest = 0;
    for (int lane = 0; lane < kLanes<float>; ++lane) highest = peak[lane] > highest ? peak[lane] : highest;
    return highest;
}

// Where any CAM exceeds the threshold (which is not negative), the strongest does: no need to look on once all do.
F2F_INLINE void find_active(const CamRows* maps, const std::int32_t* chosen, int count, std::int64_t x, float threshold,
                            Ints (&active)[kCamVectors]) {
    for (int i = 0; i < kCamVectors; ++i) active[i] = Ints{};
    for (int place = 0; place < count; ++place) {
        const CamRows& map = maps[chosen[place]];
        const Floats low_weight = splat(map.low_weight), high_weight = splat(map.high_weight);
        Ints everywhere = ~Ints{};
        for (int i = 0; i < kCamVectors; ++i) {
            active[i] |= between(map, low_weight, high_weight, x + i * kLanes<float>) > splat(threshold);
            everywhere &= active[i];
        }
        if (all(everywhere)) return;
    }
}

// Sets `bit` of the block's words (`pixels` of them) where the strongest exceeds the threshold.
void cam_bits(const CamRows* maps, const std::int32_t* chosen, int count, std::int64_t x, std::int64_t pixels,
              float threshold, std::int32_t bit, std::int32_t* words) {
    Ints active[kCamVectors];
    find_active(maps, chosen, count, x, threshold, active);
    if (pixels == kCamBlock) {
        for (int i = 0; i < kCamVectors; ++i)
            store(words + i * kLanes<float>, load(words + i * kLanes<float>) | (active[i] & bit));
        return;
    }
    std::int32_t last[kCamBlock];
    for (int i = 0; i < kCamVectors; ++i) store(last + i * kLanes<float>, active[i] & bit);
    for (std::int64_t i = 0; i < pixels; ++i) words[i] |= last[i];
}

}  // namespace
}  // namespace f2f::F2F_ISA
