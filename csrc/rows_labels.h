// Pixels of compose_labels. No include guard: see lanes.h.

namespace f2f::F2F_ISA {
namespace {

constexpr int kLabelVectors = 4;  // worked on together, so that a claim is read once for all of them
constexpr std::int64_t kLabelBlock = kLabelVectors * kLanes<std::int32_t>;
constexpr std::int32_t kIgnoreLabel = 255;

// Adds three bits, in every place of a word: the sum's lower bit is left in `a`, the upper one is returned.
F2F_INLINE Ints add_bits(Ints& a, Ints b, Ints c) {
    const Ints either = a ^ b, carry = (a & b) | (either & c);
    a = either ^ c;
    return carry;
}

// Sums of bits in every place of a word, as binary numbers: ones, twos, fours, eights; sixteens are returned.
struct BitSums {
    Ints ones = {}, twos = {}, fours = {}, eights = {};
    F2F_INLINE Ints add_two(const std::int32_t* words) {
        return add_bits(ones, load(words), load(words + kLanes<std::int32_t>));
    }
    F2F_INLINE Ints add_four(const std::int32_t* words) {
        const Ints first = add_two(words);
        return add_bits(twos, first, add_two(words + 2 * kLanes<std::int32_t>));
    }
    F2F_INLINE Ints add_eight(const std::int32_t* words) {
        const Ints first = add_four(words);
        return add_bits(fours, first, add_four(words + 4 * kLanes<std::int32_t>));
    }
    F2F_INLINE Ints add_sixteen(const std::int32_t* words) {
        const Ints first = add_eight(words);
        return add_bits(eights, first, add_eight(words + 8 * kLanes<std::int32_t>));
    }
};

// How often each of the 32 bits is set (Harley and Seal's carry-save counting, in every place of the word at once).
void count_bits(const std::int32_t* words, std::int64_t count, std::int64_t* counts) {
    constexpr std::int64_t block = 16 * kLanes<std::int32_t>;
    BitSums sums;
    Ints sixteens[32] = {};  // a frame has fewer than 2^30 pixels
    std::int64_t i = 0;
    for (; i + block <= count; i += block) {
        const Ints carried = sums.add_sixteen(words + i);
        for (int bit = 0; bit < 32; ++bit) sixteens[bit] += (carried >> bit) & 1;
    }
    for (int bit = 0; bit < 32; ++bit) {
        const Ints total = 16 * sixteens[bit] + 8 * ((sums.eights >> bit) & 1) + 4 * ((sums.fours >> bit) & 1) +
                           2 * ((sums.twos >> bit) & 1) + ((sums.ones >> bit) & 1);
        counts[bit] = 0;
        for (int lane = 0; lane < kLanes<std::int32_t>; ++lane) counts[bit] += total[lane];
        for (std::int64_t rest = i; rest < count; ++rest) counts[bit] += (words[rest] >> bit) & 1;
    }
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
