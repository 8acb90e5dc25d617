// Pixels of compose_labels; plain loops, vectorised by the compiler. No include guard: see lanes.h.

namespace f2f::F2F_ISA {
namespace {

constexpr std::int64_t kLabelBlock = 512;  // pixels whose labels are worked on in the L1 cache
constexpr std::int32_t kIgnoreLabel = 255;

std::int32_t any_bits(const std::int32_t* words, std::int64_t count) {
    std::int32_t seen = 0;
    for (std::int64_t i = 0; i < count; ++i) seen |= words[i];
    return seen;
}

std::int64_t count_bit(const std::int32_t* words, std::int64_t count, std::int32_t bit) {
    std::int64_t total = 0;
    for (std::int64_t start = 0; start < count; start += 1 << 20) {  // 32-bit partial sums, one per lane
        const std::int64_t end = start + (1 << 20) < count ? start + (1 << 20) : count;
        std::int32_t part = 0;
        for (std::int64_t i = start; i < end; ++i) part += (words[i] & bit) != 0;
        total += part;
    }
    return total;
}

// The rest: background where saliency is low, ignore elsewhere.
F2F_INLINE void label_rest(const float* saliency, float theta_b, std::int64_t pixels, std::int32_t* labels) {
    if (saliency == nullptr)
        for (std::int64_t i = 0; i < pixels; ++i) labels[i] = kIgnoreLabel;
    else
        for (std::int64_t i = 0; i < pixels; ++i) labels[i] = saliency[i] < theta_b ? 0 : kIgnoreLabel;
}

// Claims come weakest first: each overwrites what the ones before it have said.
void labels(const std::int32_t* words, std::int64_t plane, const Claim* claims, int count, const float* saliency,
            float theta_b, std::int64_t pixels, std::uint8_t* labels) {
    std::int32_t block[kLabelBlock];
    for (std::int64_t start = 0; start < pixels; start += kLabelBlock) {
        const std::int64_t size = pixels - start < kLabelBlock ? pixels - start : kLabelBlock;
        label_rest(saliency == nullptr ? nullptr : saliency + start, theta_b, size, block);
        for (int claim = 0; claim < count; ++claim) {
            const std::int32_t* word = words + claims[claim].word * plane + start;
            const std::int32_t bit = claims[claim].bit, label = claims[claim].label;
            for (std::int64_t i = 0; i < size; ++i) block[i] = (word[i] & bit) != 0 ? label : block[i];
        }
        for (std::int64_t i = 0; i < size; ++i) labels[start + i] = static_cast<std::uint8_t>(block[i]);
    }
}

}  // namespace
}  // namespace f2f::F2F_ISA
