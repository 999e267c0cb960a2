// Keys and values of a block of tokens as rows that the tiles read: where they lie, or unpacked into scratch.
//
// The layout of packed vectors is that of flexplan/packing.py.  What a code stands for is not rounded to the model's
// dtype, since all sums are in float32.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "vectors.hpp"

namespace {

constexpr int kLargestHeadDim = 256;

// n rows; E is what one number is.
template <class E>
struct Rows {
    const E* at;
    int64_t stride;
};

// Vectors as they are.
template <class T>
struct Plain {
    using Element = T;
    int64_t row_bytes;

    explicit Plain(int64_t H) : row_bytes(H * int64_t(sizeof(T))) {}

    Rows<T> rows(const char* from, int64_t stride_bytes, int64_t, float*) const {
        return {reinterpret_cast<const T*>(from), stride_bytes / int64_t(sizeof(T))};
    }
};

// What the codes of one group stand for; of a lane only the low Bits count.
template <int Bits>
struct Values {
    Floats scale, minimum;

    Floats operator()(Ints code) const {
        return __builtin_convertvector(Bits == 8 ? code : code & 15, Floats) * scale + minimum;
    }
};

#if defined(__AVX512F__)
template <>
struct Values<4> {  // all sixteen in one register
    Floats of;

    Values() = default;
    Values(Floats scale, Floats minimum) {
        of = Floats{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * scale + minimum;
    }
    Floats operator()(Ints code) const { return (Floats)_mm512_permutexvar_ps((__m512i)code, (__m512)of); }
};
#endif

// Vectors grouped along themselves; T is the dtype of scales and minima.
template <class T, int Bits>
struct Packed {
    using Element = float;
    int64_t H, group_size, groups, code_bytes, scales_at, row_bytes;
    bool symmetric, even;
    uint8_t group_of[kLargestHeadDim / kWidth];  // of each vector of the head dimension, if even

    Packed(int64_t H, int64_t group_size, bool symmetric, int64_t row_bytes)
        : H(H), group_size(std::min(group_size, H)), row_bytes(row_bytes), symmetric(symmetric) {
        const int64_t size = sizeof(T);
        groups = (H + group_size - 1) / group_size;
        code_bytes = H * Bits / 8;
        scales_at = (code_bytes + size - 1) / size * size;
        even = code_bytes % kWidth == 0 && (groups == 1 || group_size % kWidth == 0);
        for (int64_t h = 0; even && h < H; h += kWidth) group_of[h / kWidth] = uint8_t(h / group_size);
    }

    // Into scratch, which has room for kWidth numbers more.
    Rows<float> rows(const char* from, int64_t stride_bytes, int64_t n, float* scratch) const {
        for (int64_t t = 0; t < n; ++t)
            even ? unpack_even(from + t * stride_bytes, scratch + t * H)
                 : unpack_uneven(from + t * stride_bytes, scratch + t * H);
        return {scratch, H};
    }

  private:
    static constexpr int kHalves = 8 / Bits;

    Values<Bits> values(const char* vector, int64_t g) const {
        const char* scale = vector + scales_at + g * sizeof(T);
        const Floats s = splat(reinterpret_cast<const T*>(scale));
        if (symmetric) return {s, s * -float(1 << (Bits - 1))};
        return {s, splat(reinterpret_cast<const T*>(scale + groups * sizeof(T)))};
    }

    // No vector of the head dimension lies in two groups or in two halves.
    void unpack_even(const char* from, float* to) const {
        Values<Bits> of[kLargestHeadDim / kWidth];
        for (int64_t g = 0; g < groups; ++g) of[g] = values(from, g);
        const uint8_t* group = group_of;
        for (int64_t b = 0; b < code_bytes; b += kWidth, ++group) {
            const Ints codes = load_bytes(from + b);
            store(to + b, of[group[0]](codes));
            if constexpr (Bits == 4) store(to + code_bytes + b, of[group[code_bytes / kWidth]](codes >> 4));
        }
    }

    // Anything else: each element has its own scale and minimum.  What is written too far is written again.
    void unpack_uneven(const char* from, float* to) const {
        char bytes[kLargestHeadDim + kWidth];
        std::memcpy(bytes, from, code_bytes);
        float scale[kLargestHeadDim + kWidth], minimum[kLargestHeadDim + kWidth];
        for (int64_t g = 0; g < groups; ++g) {
            const char* at = from + scales_at + g * sizeof(T);
            const Floats s = splat(reinterpret_cast<const T*>(at));
            const Floats m = symmetric ? s * -float(1 << (Bits - 1))
                                       : splat(reinterpret_cast<const T*>(at + groups * sizeof(T)));
            const int64_t end = std::min((g + 1) * group_size, H);
            for (int64_t h = g * group_size; h < end; h += kWidth) store(scale + h, s), store(minimum + h, m);
        }
        for (int half = 0; half < kHalves; ++half)
            for (int64_t b = 0; b < code_bytes; b += kWidth) {
                const int64_t h = half * code_bytes + b;
                const Ints codes = load_bytes(bytes + b) >> (4 * half) & ((1 << Bits) - 1);
                store(to + h, __builtin_convertvector(codes, Floats) * load(scale + h) + load(minimum + h));
            }
    }
};

}  // namespace
