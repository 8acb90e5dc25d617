// Rows of crf_refine: pixels into the lattice, sums of shifted rows, label shares. No include guard: see lanes.h.

namespace f2f::F2F_ISA {
namespace {

constexpr int kSimplexCorners = 6;

// A cell's place in the lattice's hyperplane, in units of kSimplexCorners.
F2F_INLINE void elevate(const EmbedScale& scale, const EmbeddedCells& cells, std::int64_t at, Floats* place) {
    Floats share[kSimplexCorners - 1];
    for (int j = 0; j < kSimplexCorners - 1; ++j) share[j] = load(cells.features[j] + at) * scale.factor[j];
    Floats sum = {};
    for (int j = kSimplexCorners - 1; j > 0; --j) {
        place[j] = sum - static_cast<float>(j) * share[j - 1];
        sum += share[j - 1];
    }
    place[0] = sum;
}

// How many of the others are larger; of equal ones the first counts as the largest.
F2F_INLINE void rank(const Floats* values, Ints* ranks) {
    for (int i = 0; i < kSimplexCorners; ++i) ranks[i] = Ints{};
    for (int i = 0; i < kSimplexCorners; ++i)
        for (int j = i + 1; j < kSimplexCorners; ++j) {
            const Ints smaller = values[i] < values[j];
            ranks[i] -= smaller;
            ranks[j] += smaller + 1;
        }
}

// The nearest lattice point with remainder 0, what remains, and the ranks of what remains.
F2F_INLINE void round_to_lattice(const Floats* place, Ints* origin, Floats* rest, Ints* ranks) {
    Ints sum = {};
    for (int i = 0; i < kSimplexCorners; ++i) {
        origin[i] = floor_to_ints(place[i] + 0.5f);
        rest[i] = place[i] - __builtin_convertvector(origin[i], Floats);
        sum += origin[i];
    }
    rank(rest, ranks);
    for (int i = 0; i < kSimplexCorners; ++i) {
        ranks[i] += sum;
        const Ints low = ranks[i] < 0, high = ranks[i] >= kSimplexCorners, up = high - low;  // 1: up, -1: down
        ranks[i] += kSimplexCorners * up;
        origin[i] += up;
        rest[i] -= __builtin_convertvector(up, Floats);
    }
}

// The corners' weights are the gaps between what remains, in its order, and around the ends.
void embed(const EmbedScale& scale, const EmbeddedCells& cells, std::int64_t first, std::int64_t end) {
    for (std::int64_t at = first; at < end; at += kLanes<float>) {
        Floats place[kSimplexCorners], rest[kSimplexCorners], sorted[kSimplexCorners];
        Ints origin[kSimplexCorners], ranks[kSimplexCorners], order = {};
        elevate(scale, cells, at, place);
        round_to_lattice(place, origin, rest, ranks);
        for (int i = 0; i < kSimplexCorners; ++i) order |= i << (4 * ranks[i]);
        for (int r = 0; r < kSimplexCorners; ++r) {
            Ints bits = {};
            for (int i = 0; i < kSimplexCorners; ++i) bits |= (Ints)rest[i] & (ranks[i] == r);
            sorted[r] = (Floats)bits;
        }
        store<float>(cells.weights[0] + at, 1.0f - (sorted[0] - sorted[kSimplexCorners - 1]));
        for (int k = 1; k < kSimplexCorners; ++k)
            store<float>(cells.weights[k] + at, sorted[kSimplexCorners - 1 - k] - sorted[kSimplexCorners - k]);
        for (int j = 0; j < kSimplexCorners - 1; ++j)
            store<std::int32_t>(cells.origin[j] + at, kSimplexCorners * origin[j]);
        store<std::int32_t>(cells.order + at, order);
    }
}

constexpr int kTapVectors = 8;

template <int vectors>
F2F_INLINE void add_taps_block(const float* from, std::int64_t stride, const float* weights, std::int64_t taps,
                               float* to) {
    Floats sums[vectors];
    for (int i = 0; i < vectors; ++i) sums[i] = load(to + i * kLanes<float>);
    for (std::int64_t tap = 0; tap < taps; ++tap, from += stride) {
        const Floats weight = splat(weights[tap]);
        for (int i = 0; i < vectors; ++i) sums[i] = multiply_add(load(from + i * kLanes<float>), weight, sums[i]);
    }
    for (int i = 0; i < vectors; ++i) store<float>(to + i * kLanes<float>, sums[i]);
}

// From value i on, in blocks of as many vectors as the registers hold and a smaller one for the rest.
template <int vectors>
void add_taps_from(std::int64_t i, const float* from, std::int64_t stride, const float* weights, std::int64_t taps,
                   std::int64_t count, float* to) {
    for (; i + vectors * kLanes<float> <= count; i += vectors * kLanes<float>)
        add_taps_block<vectors>(from + i, stride, weights, taps, to + i);
    if constexpr (vectors > 1) add_taps_from<vectors - 1>(i, from, stride, weights, taps, count, to);
}

void add_taps(const float* from, std::int64_t stride, const float* weights, std::int64_t taps, std::int64_t count,
              float* to) {
    add_taps_from<kTapVectors>(0, from, stride, weights, taps, count, to);
}

// e^x for x <= 0: e^x = 2^n e^r with |r| <= ln(2) / 2, and e^r by its Taylor series; 0 for x <= -87.
F2F_INLINE Floats exp_of(Floats given) {
    const Floats x = larger(given, splat(-87.0f));
    const Ints n = floor_to_ints(x * 1.44269504f + 0.5f);
    const Floats whole = __builtin_convertvector(n, Floats);
    const Floats r = x - whole * 0.693359375f + whole * 2.12194440e-4f;  // ln(2) in two parts
    Floats sum = splat(1.0f / 5040);
    for (const float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        sum = multiply_add(sum, r, splat(term));
    return (Floats)((Ints)(sum * (Floats)((n + 127) << 23)) & (given > -87.0f));
}

constexpr float kHighestEnergy = 1e4f;

F2F_INLINE Floats energy_of(Floats given) {  // NaN counts as the highest
    const Floats low = given < kHighestEnergy ? given : splat(kHighestEnergy);
    return low > -kHighestEnergy ? low : splat(-kHighestEnergy);
}

// Logits of labels 1.. less label 0's of a row of energies whose planes are `plane` apart.
void first_logits(const float* unary, std::int64_t plane, int labels, std::int64_t width, std::int64_t stride,
                  float* logits) {
    for (std::int64_t at = 0; at < width; at += kLanes<float>) {
        const Floats first = energy_of(load_within(unary + at, 0, width - at));
        for (int i = 1; i < labels; ++i)
            store<float>(logits + (i - 1) * stride + at,
                         first - energy_of(load_within(unary + i * plane + at, 0, width - at)));
    }
}

// The shares of labels 1.. of which the logits beside label 0's are given.
void label_shares(const float* logits, std::int64_t stride, int labels, std::int64_t count, float* first,
                  float* shares) {
    for (std::int64_t at = 0; at < count; at += kLanes<float>) {
        Floats highest = {};
        for (int i = 1; i < labels; ++i) highest = larger(load(logits + (i - 1) * stride + at), highest);
        const Floats of_first = exp_of(-highest);
        Floats sum = of_first;
        for (int i = 1; i < labels; ++i) {
            const Floats share = exp_of(load(logits + (i - 1) * stride + at) - highest);
            store<float>(shares + (i - 1) * stride + at, share);
            sum += share;
        }
        store<float>(first + at, of_first / sum);
        for (int i = 1; i < labels; ++i)
            store<float>(shares + (i - 1) * stride + at, load(shares + (i - 1) * stride + at) / sum);
    }
}

}  // namespace
}  // namespace f2f::F2F_ISA
