// Pixels of compose_labels. No include guard: see lanes.h.

namespace f2f::F2F_ISA {
namespace {

constexpr int kLabelVectors = 4;  // worked on together, so that a claim is read once for all of them
constexpr std::int64_t kLabelBlock = kLabelVectors * kLanes<std::int32_t>;
constexpr std::int32_t kIgnoreLabel = 255;

std::int32_t any_bits(const std::int32_t* words, std::int64_t count) {
    Ints seen = {};
    std::int64_t i = 0;
    for (; i + kLanes<std::int32_t> <= count; i += kLanes<std::int32_t>) seen |= load(words + i);
    std::int32_t any = 0;
    for (int lane = 0; lane < kLanes<std::int32_t>; ++lane) any |= seen[lane];
    for (; i < count; ++i) any |= words[i];
    return any;
}

std::int64_t count_bit(const std::int32_t* words, std::int64_t count, std::int32_t bit) {
    Ints counts = {};  // a frame has fewer than 2^30 pixels
    std::int64_t i = 0;
    for (; i + kLanes<std::int32_t> <= count; i += kLanes<std::int32_t>) counts -= (load(words + i) & bit) != 0;
    std::int64_t total = 0;
    for (int lane = 0; lane < kLanes<std::int32_t>; ++lane) total += counts[lane];
    for (; i < count; ++i) total += (words[i] & bit) != 0;
    return total;
}

// The rest: background where saliency is low, ignore elsewhere.
F2F_INLINE std::int32_t rest_label(const float* saliency, float theta_b, std::int64_t i) {
    return saliency != nullptr && saliency[i] < theta_b ? 0 : kIgnoreLabel;
}

F2F_INLINE Ints rest_labels(const float* saliency, float theta_b, std::int64_t i) {
    if (saliency == nullptr) return splat(kIgnoreLabel);
    return ~(load(saliency + i) < splat(theta_b)) & kIgnoreLabel;
}

// Claims come weakest first: each overwrites what the ones before it have said.
F2F_INLINE void label_block(const std::int32_t* words, std::int64_t plane, const Claim* claims, int count,
                            const float* saliency, float theta_b, std::int64_t start, std::uint8_t* labels) {
    constexpr int lanes = kLanes<std::int32_t>;
    Ints said[kLabelVectors];
    for (int i = 0; i < kLabelVectors; ++i) said[i] = rest_labels(saliency, theta_b, start + i * lanes);
    for (int claim = 0; claim < count; ++claim) {
        const std::int32_t* word = words + claims[claim].word * plane + start;
        const Ints bit = splat(claims[claim].bit), label = splat(claims[claim].label);
        for (int i = 0; i < kLabelVectors; ++i) said[i] = choose((load(word + i * lanes) & bit) != 0, label, said[i]);
    }
    std::int32_t block[kLabelBlock];
    for (int i = 0; i < kLabelVectors; ++i) store(block + i * lanes, said[i]);
    for (std::int64_t i = 0; i < kLabelBlock; ++i) labels[start + i] = static_cast<std::uint8_t>(block[i]);
}

void labels(const std::int32_t* words, std::int64_t plane, const Claim* claims, int count, const float* saliency,
            float theta_b, std::int64_t pixels, std::uint8_t* labels) {
    std::int64_t i = 0;
    for (; i + kLabelBlock <= pixels; i += kLabelBlock)
        label_block(words, plane, claims, count, saliency, theta_b, i, labels);
    for (; i < pixels; ++i) {
        std::int32_t said = rest_label(saliency, theta_b, i);
        for (int claim = 0; claim < count; ++claim)
            if ((words[claims[claim].word * plane + i] & claims[claim].bit) != 0) said = claims[claim].label;
        labels[i] = static_cast<std::uint8_t>(said);
    }
}

}  // namespace
}  // namespace f2f::F2F_ISA
