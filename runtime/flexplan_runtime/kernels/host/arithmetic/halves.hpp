// Keys and values as the bfloat16 numbers that tiles multiply, without a rounding.
//
// bfloat16 is one part and stays where it is.  float16 has eleven bits: two parts of at most eight, whose sum it is.  A
// code of at most eight bits is one part, and what it stands for is code x scale + minimum, of groups along the vector.
#pragma once
#include "amx.hpp"
#if defined(FLEXPLAN_TILES)
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../pages.hpp"
#include "../vectors.hpp"

namespace {

inline __m512i to_bfloat16(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

inline __m512 cut(__m512 x) { return (__m512)_mm512_and_si512((__m512i)x, _mm512_set1_epi32(int(0xffff0000u))); }

// 32 numbers to their upper part, cut off, and what is left.
inline void split(__m512 a, __m512 b, void* upper, void* lower) {
    const __m512 a_cut = cut(a), b_cut = cut(b);
    write(upper, to_bfloat16(a_cut, b_cut));
    write(lower, to_bfloat16(a - a_cut, b - b_cut));
}

// n vectors, each part of theirs `part` bytes behind the one before, rows `stride` bytes apart.
struct Parts {
    const char* at;
    int64_t stride, part;
};

// Numbers of a row in scratch.
inline int64_t row_numbers(int64_t H) { return std::max<int64_t>(H, kStep); }

// Vectors of plain numbers of 16 bits: one group, no scales.
struct Uncoded {
    static constexpr bool kCodes = false;
    static constexpr int64_t groups = 1;
    int64_t H, vector_bytes, group_size;

    explicit Uncoded(int64_t H) : H(H), vector_bytes(2 * H), group_size(H) {}

    void numbers(const Run&, int64_t, int64_t, __m512&, __m512&) const {}
};

// T, and how many parts one is.
template <class T>
struct Halves16 : Uncoded {
    static constexpr int kParts = 1;
    using Uncoded::Uncoded;

    // Rows [0, padded) of a run, of which those behind its last one are 0.
    Parts rows(const Run& run, int64_t padded, char* scratch) const {
        if (run.n == padded && H >= kStep) return {run.at, run.stride, 0};
        const int64_t stride = 2 * row_numbers(H);
        std::memset(scratch, 0, padded * stride);
        for (int64_t t = 0; t < run.n; ++t) std::memcpy(scratch + t * stride, run.row(t), vector_bytes);
        return {scratch, stride, 0};
    }
};

template <>
struct Halves16<Float16> : Uncoded {
    static constexpr int kParts = 2;
    using Uncoded::Uncoded;

    Parts rows(const Run& run, int64_t padded, char* scratch) const {
        const int64_t stride = 2 * row_numbers(H), part = padded * stride;
        if (H < kStep) std::memset(scratch, 0, 2 * part);
        for (int64_t t = 0; t < run.n; ++t) split_row(run.row(t), H, scratch + t * stride, part);
        for (int64_t t = run.n; t < padded; ++t)
            std::memset(scratch + t * stride, 0, stride), std::memset(scratch + part + t * stride, 0, stride);
        return {scratch, stride, part};
    }

  private:
    static void split_row(const char* row, int64_t H, char* to, int64_t part) {
        const Float16* from = reinterpret_cast<const Float16*>(row);
        for (; H >= kStep; H -= kStep, from += kStep, to += 64)
            split((__m512)load(from), (__m512)load(from + kTile), to, to + part);
        if (H == 0) return;
        const __m512 last = (__m512)load(from), upper = cut(last);
        write(to, _mm512_cvtneps_pbh(upper)), write(to + part, _mm512_cvtneps_pbh(last - upper));
    }
};

// Codes; T is the dtype of scales and minima.
template <class T, int Bits>
struct CodeHalves {
    static constexpr int kParts = 1;
    static constexpr bool kCodes = true;
    int64_t H, vector_bytes, group_size, groups, code_bytes, scales_at;
    bool symmetric;

    // Whether each step of 32 numbers lies in one group.
    static bool suits(int64_t H, int64_t group_size) { return group_size >= H || group_size % kStep == 0; }

    CodeHalves(int64_t H, int64_t group_size, bool symmetric, int64_t vector_bytes)
        : H(H), vector_bytes(vector_bytes), group_size(std::min(group_size, H)),
          groups((H + this->group_size - 1) / this->group_size), code_bytes(H * Bits / 8),
          scales_at((code_bytes + 1) / 2 * 2), symmetric(symmetric) {}

    Parts rows(const Run& run, int64_t padded, char* scratch) const {
        const int64_t stride = 2 * row_numbers(H);
        if (H < kStep) std::memset(scratch, 0, padded * stride);
        for (int64_t t = 0; t < run.n; ++t) unpack(run.row(t), code_bytes, scratch + t * stride);
        std::memset(scratch + run.n * stride, 0, (padded - run.n) * stride);
        return {scratch, stride, 0};
    }

    // Scales and minima of one group, of 16 vectors from t on; those that are not there are 0.
    void numbers(const Run& run, int64_t t, int64_t g, __m512& scale, __m512& minimum) const {
        scale = gathered(run, t, scales_at + 2 * g);
        minimum = symmetric ? scale * -float(1 << (Bits - 1)) : gathered(run, t, scales_at + 2 * (groups + g));
    }

  private:
    // A number's two bytes are read with the two before them: nothing behind the last vector is.
    static __m512 gathered(const Run& run, int64_t t, int64_t at) {
        const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        const __mmask16 there = __mmask16(run.n - t >= 16 ? 0xffff : (1 << (run.n - t)) - 1);
        const __m512i places = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(int(run.stride)));
        const void* from = run.row(t) + at - 2;
        const __m512i words = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), there, places, from, 1);
        return number(words, static_cast<const T*>(nullptr));
    }

    static __m512 number(__m512i words, const BFloat16*) {
        return (__m512)_mm512_and_si512(words, _mm512_set1_epi32(int(0xffff0000u)));
    }
    static __m512 number(__m512i words, const Float16*) {
        return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
    }

    static void unpack(const char* from, int64_t left, char* to) {
        const int64_t half = 2 * left;  // in bytes of what the codes become
        for (; left > 0; left -= 32, from += 32, to += 64) {
            const __m256i codes = left >= 32 ? read<__m256i>(from) : _mm256_maskz_loadu_epi8((1u << left) - 1, from);
            if constexpr (Bits == 4) {
                const __m512i words = _mm512_cvtepu8_epi16(codes), values = nibbles();
                put(to, _mm512_permutexvar_epi16(words, values), left);
                put(to + half, _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), values), left);
            } else {
                const __m512i low = _mm512_cvtepu8_epi32(_mm256_castsi256_si128(codes));
                const __m512i high = _mm512_cvtepu8_epi32(_mm256_extracti128_si256(codes, 1));
                put(to, to_bfloat16(_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(high)), left);
            }
        }
    }

    static void put(char* to, __m512i numbers, int64_t left) {
        if (left >= 32) return write(to, numbers);
        _mm512_mask_storeu_epi16(to, (1u << left) - 1, numbers);
    }

    // The numbers 0 to 15, twice: of an index to 32 of them, the fifth bit is another code's.
    static __m512i nibbles() {
        const __m512 n = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        return to_bfloat16(n, n);
    }
};

}  // namespace
#endif
