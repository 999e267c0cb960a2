// Vectors of float32 from memory in float32, bfloat16 or float16, and back; their sums and exponentials.
//
// GNU vector types throughout; only what they cannot say is written by instruction set.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16, kRegisters = 32;  // lanes; vectors that registers hold
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
constexpr int kWidth = 8, kRegisters = 16;
#else
constexpr int kWidth = 4, kRegisters = 16;
#endif
constexpr int kLargestHeadDim = 256;
#define FLEXPLAN_INLINE inline __attribute__((always_inline))  // what compilers inline less of, the larger the whole is
constexpr float kInfinity = std::numeric_limits<float>::infinity();

typedef float Floats __attribute__((vector_size(kWidth * 4)));
typedef int32_t Ints __attribute__((vector_size(kWidth * 4)));
typedef uint32_t Words __attribute__((vector_size(kWidth * 4)));
typedef uint16_t Halves __attribute__((vector_size(kWidth * 2)));

struct BFloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };
typedef uint8_t Bytes __attribute__((vector_size(kWidth)));

template <class V>
inline V read(const void* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

template <class V>
inline void write(void* to, V v) { std::memcpy(to, &v, sizeof v); }

inline Floats splat(float x) { return x - Floats{}; }
inline Floats splat(const float* p) { return splat(*p); }
inline Floats load(const float* p) { return read<Floats>(p); }
inline void store(float* p, Floats x) { write(p, x); }

inline void store(BFloat16* p, Floats x) {  // to nearest, ties to even; a NaN stays one
    Words w = (Words)x, even = (w + 0x7fffu + ((w >> 16) & 1u)) >> 16, nan = (w >> 16) | 0x40u;
    Words is_nan = (Words)(x != x);
    write(p, __builtin_convertvector((nan & is_nan) | (even & ~is_nan), Halves));
}

inline Floats splat(const BFloat16* p) { return (Floats)(uint32_t(p->bits) << 16 | Words{}); }

#if defined(__AVX512F__)
inline Ints load_bytes(const char* p) { return (Ints)_mm512_cvtepu8_epi32(read<__m128i>(p)); }
inline Words load_words(const char* p, Ints wanted) {  // others are 0, and not read
    return (Words)_mm512_maskz_loadu_epi32(_mm512_test_epi32_mask((__m512i)wanted, (__m512i)wanted), p);
}
inline Floats pick(Floats x, Ints lanes) { return (Floats)_mm512_permutexvar_ps((__m512i)lanes, (__m512)x); }
inline Floats splat(const Float16* p) { return (Floats)_mm512_cvtph_ps(_mm256_set1_epi16(short(p->bits))); }
inline Floats load(const BFloat16* p) {  // compilers make two halves of a __builtin_convertvector
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(read<__m256i>(p)), 16);
}
inline Floats load(const Float16* p) { return (Floats)_mm512_cvtph_ps(read<__m256i>(p)); }
inline void store(Float16* p, Floats x) { write(p, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT)); }

inline void sum_each(const Floats* x, float* to) {  // four vectors to four sums
    __m512 a = (__m512)x[0], b = (__m512)x[1], c = (__m512)x[2], d = (__m512)x[3];
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));  // a b a b ..
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m512 half = _mm512_add_ps(abcd, _mm512_shuffle_f32x4(abcd, abcd, 0x4e));
    __m512 whole = _mm512_add_ps(half, _mm512_shuffle_f32x4(half, half, 0xb1));
    _mm_storeu_ps(to, _mm512_castps512_ps128(whole));
}
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
inline Ints load_bytes(const char* p) { return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
inline Words load_words(const char* p, Ints wanted) {  // others are 0, and not read
    return (Words)_mm256_maskload_epi32((const int*)p, (__m256i)wanted);
}
inline Floats pick(Floats x, Ints lanes) { return (Floats)_mm256_permutevar8x32_ps((__m256)x, (__m256i)lanes); }
inline Floats splat(const Float16* p) { return (Floats)_mm256_cvtph_ps(_mm_set1_epi16(short(p->bits))); }
inline Floats load(const BFloat16* p) {
    return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(read<__m128i>(p)), 16);
}
inline Floats load(const Float16* p) { return (Floats)_mm256_cvtph_ps(read<__m128i>(p)); }
inline void store(Float16* p, Floats x) { write(p, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT)); }

inline void sum_each(const Floats* x, float* to) {
    __m256 ab = _mm256_hadd_ps((__m256)x[0], (__m256)x[1]), cd = _mm256_hadd_ps((__m256)x[2], (__m256)x[3]);
    __m256 abcd = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}
#else
inline Ints load_bytes(const char* p) { return __builtin_convertvector(read<Bytes>(p), Ints); }
inline Words load_words(const char* p, Ints wanted) {  // others are 0, and not read
    Words w = {};
    for (int i = 0; i < kWidth; ++i)
        if (wanted[i]) w[i] = read<uint32_t>(p + 4 * i);
    return w;
}
inline Floats pick(Floats x, Ints lanes) {
    Floats picked;
    for (int i = 0; i < kWidth; ++i) picked[i] = x[lanes[i]];
    return picked;
}
inline Floats load(const BFloat16* p) { return (Floats)(__builtin_convertvector(read<Halves>(p), Words) << 16); }

inline Floats load(const Float16* p) {  // exponents are 112 apart; multiplying also makes subnormals normal
    Words h = __builtin_convertvector(read<Halves>(p), Words);
    Floats finite = (Floats)((h & 0x7fffu) << 13) * 0x1p112f;
    Words special = (Words)((h & 0x7c00u) == 0x7c00u) & 0x7f800000u;
    return (Floats)((Words)finite | special | ((h & 0x8000u) << 16));
}

inline Floats splat(const Float16* p) {
    Halves same = p->bits | Halves{};
    return load(reinterpret_cast<const Float16*>(&same));
}

inline uint16_t to_half(float x) {
    uint32_t w = read<uint32_t>(&x), sign = w >> 16 & 0x8000u, size = w & 0x7fffffffu;
    if (size > 0x7f800000u) return uint16_t(sign | 0x7e00u);
    if (size >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // 65520 and more
    if (size < 0x38800000u) {  // subnormal: the sum leaves its rounded bits at the bottom
        float shifted = read<float>(&size) + 0.5f;
        return uint16_t(sign | (read<uint32_t>(&shifted) - 0x3f000000u));
    }
    return uint16_t(sign | ((size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13));
}

inline void store(Float16* p, Floats x) {
    for (int i = 0; i < kWidth; ++i) p[i].bits = to_half(x[i]);
}

inline void sum_each(const Floats* x, float* to) {
    for (int t = 0; t < 4; ++t) to[t] = (x[t][0] + x[t][1]) + (x[t][2] + x[t][3]);
}
#endif

#if defined(__AVX512F__)
inline float sum(Floats x) { return _mm512_reduce_add_ps((__m512)x); }
inline float largest(Floats x) { return _mm512_reduce_max_ps((__m512)x); }
#else
inline float sum(Floats x) {
    float s = 0;
    for (int i = 0; i < kWidth; ++i) s += x[i];
    return s;
}

inline float largest(Floats x) {
    float m = x[0];
    for (int i = 1; i < kWidth; ++i) m = std::max(m, x[i]);
    return m;
}
#endif

// e to the x for x <= 0, within 1e-7 of itself (Cephes' polynomial); below -87 zero.
inline Floats exponential(Floats x) {
    Floats shifted = x * 1.44269504f + 12582912.f;  // 1.5 * 2^23: the sum's low bits are round(x / ln 2)
    Floats n = shifted - 12582912.f;
    Floats r = x - n * 0.693359375f - n * -2.12194440e-4f;
    Floats y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * (r * r) + r + 1.f;
    Floats power = (Floats)(((Words)shifted << 23) + 0x3f800000u);
    Ints tiny = x < -87.f;
    return (Floats)((Ints)(y * power) & ~tiny);
}

inline void prefetch(const void* row, ptrdiff_t nbytes) {
    for (ptrdiff_t at = 0; at < nbytes; at += 64) __builtin_prefetch(static_cast<const char*>(row) + at, 0, 2);  // into L2
}

}  // namespace
