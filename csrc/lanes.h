// Vectors of the instruction set that is being compiled: F2F_ISA is its namespace, F2F_VECTOR_BYTES the width of a
// vector, F2F_GATHERS whether to use gather instructions. No include guard: included once by each isa_*.cpp.

namespace f2f::F2F_ISA {
namespace {

#define F2F_INLINE [[gnu::always_inline]] inline

template <typename T>
struct VectorOf {
    typedef T Type __attribute__((vector_size(F2F_VECTOR_BYTES)));
};
template <typename T>
using Vector = typename VectorOf<T>::Type;
template <typename T>
constexpr int kLanes = F2F_VECTOR_BYTES / sizeof(T);

using Ints = Vector<std::int32_t>;
using Floats = Vector<float>;  // compares give Ints: -1 where true, 0 where false

template <typename T>
F2F_INLINE Vector<T> load(const T* from) {
    Vector<T> vector;
    std::memcpy(&vector, from, sizeof(vector));
    return vector;
}

template <typename T>
F2F_INLINE void store(T* to, Vector<T> vector) {
    std::memcpy(to, &vector, sizeof(vector));
}

// Stores the first `count` lanes only.
template <typename T>
F2F_INLINE void store_first(T* to, Vector<T> vector, std::int64_t count) {
    if (count >= kLanes<T>) return store<T>(to, vector);
    std::memcpy(to, &vector, count * sizeof(T));
}

// Lanes first..end-1 only; zeros, and nothing read, in the others.
template <typename T>
F2F_INLINE Vector<T> load_within(const T* from, std::int64_t first, std::int64_t end) {
    if (first <= 0 && end >= kLanes<T>) return load(from);
    T values[kLanes<T>] = {};
    for (std::int64_t lane = first > 0 ? first : 0; lane < end && lane < kLanes<T>; ++lane) values[lane] = from[lane];
    return load(values);
}

// A load that is made once, into a register: else the compiler repeats it in every instruction that can take an operand
// from memory.
template <typename T>
F2F_INLINE Vector<T> load_once(const T* from) {
    Vector<T> vector = load(from);
#if F2F_X86
    asm("" : "+v"(vector));
#endif
    return vector;
}

template <typename T>
F2F_INLINE Vector<T> splat(T value) {
    return value - Vector<T>{};  // keeps the sign of -0
}

F2F_INLINE Ints lane_numbers() {
    Ints numbers;
    for (int lane = 0; lane < kLanes<std::int32_t>; ++lane) numbers[lane] = lane;
    return numbers;
}

// mask ? a : b, lane by lane.
F2F_INLINE Ints choose(Ints mask, Ints a, Ints b) { return mask ? a : b; }

#if F2F_VECTOR_BYTES == 64
constexpr __mmask16 kEveryLane = 0xffff;  // of the plain forms without a mask GCC 12 says that they read garbage
F2F_INLINE Ints floor_to_ints(Floats v) {
    return (Ints)_mm512_maskz_cvt_roundps_epi32(kEveryLane, v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
F2F_INLINE bool all(Ints mask) { return _mm512_movepi32_mask((__m512i)mask) == kEveryLane; }
F2F_INLINE Floats pick(const float* from, Ints at) {
    return _mm512_maskz_permutexvar_ps(kEveryLane, (__m512i)at, load(from));
}
F2F_INLINE Ints pick_two(const std::int32_t* from, Ints at) {
    return (Ints)_mm512_permutex2var_epi32((__m512i)load(from), (__m512i)at, (__m512i)load(from + 16));
}
F2F_INLINE Floats larger(Floats a, Floats b) { return _mm512_maskz_max_ps(kEveryLane, a, b); }
F2F_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
F2F_INLINE Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
    return _mm512_fmadd_pd(a, b, c);
}
#elif F2F_VECTOR_BYTES == 32
F2F_INLINE Ints floor_to_ints(Floats v) { return (Ints)_mm256_cvttps_epi32(_mm256_floor_ps(v)); }
F2F_INLINE bool all(Ints mask) { return _mm256_movemask_ps((__m256)mask) == 0xff; }
F2F_INLINE Floats pick(const float* from, Ints at) { return _mm256_permutevar8x32_ps(load(from), (__m256i)at); }
F2F_INLINE Ints pick_two(const std::int32_t* from, Ints at) {
    const auto first = (Ints)_mm256_permutevar8x32_epi32((__m256i)load(from), (__m256i)at);
    const auto second = (Ints)_mm256_permutevar8x32_epi32((__m256i)load(from + 8), (__m256i)at);
    return choose(at > 7, second, first);
}
F2F_INLINE Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
F2F_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
F2F_INLINE Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c) {
    return _mm256_fmadd_pd(a, b, c);
}
#else
F2F_INLINE Ints floor_to_ints(Floats v) {
    const Ints truncated = __builtin_convertvector(v, Ints);
    return truncated + (__builtin_convertvector(truncated, Floats) > v);  // -1 where truncation went up
}
F2F_INLINE bool all(Ints mask) {
    std::int32_t all_lanes = -1;
    for (int lane = 0; lane < kLanes<std::int32_t>; ++lane) all_lanes &= mask[lane];
    return all_lanes != 0;
}
F2F_INLINE Floats pick(const float* from, Ints at) {
    Floats picked;
    for (int lane = 0; lane < kLanes<float>; ++lane) picked[lane] = from[at[lane]];
    return picked;
}
F2F_INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }  // b where a is NaN
template <typename V>
F2F_INLINE V multiply_add(V a, V b, V c) {
    return a * b + c;
}
#endif

// pick(from, at) is from[at] for 0 <= at < lanes, of a whole vector that can be read at `from`; pick_two, of two
// vectors, is for 0 <= at < 2 * lanes (not in the narrowest set, where loads are as good).

// base[at] where the mask is set, else 0; `at` is only read there.
#if F2F_GATHERS && F2F_VECTOR_BYTES == 64
F2F_INLINE Ints gather(const std::int32_t* base, Ints at, Ints mask) {
    return (Ints)_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), _mm512_movepi32_mask((__m512i)mask), (__m512i)at,
                                             base, 4);
}
#elif F2F_GATHERS && F2F_VECTOR_BYTES == 32
F2F_INLINE Ints gather(const std::int32_t* base, Ints at, Ints mask) {
    return (Ints)_mm256_mask_i32gather_epi32(_mm256_setzero_si256(), base, (__m256i)at, (__m256i)mask, 4);
}
#else
F2F_INLINE Ints gather(const std::int32_t* base, Ints at, Ints mask) {
    at &= mask;  // place 0 is always there to be read
    Ints words;
    for (int lane = 0; lane < kLanes<std::int32_t>; ++lane) {
        std::int32_t word = base[at[lane]];
        asm("" : "+r"(word));  // or the compiler would make a gather of the loop
        words[lane] = word;
    }
    return words & mask;
}
#endif

F2F_INLINE Floats gather(const float* base, Ints at) {
    return (Floats)gather(reinterpret_cast<const std::int32_t*>(base), at, ~Ints{});
}

}  // namespace
}  // namespace f2f::F2F_ISA
