// Keys and values of a block of tokens as rows that the tiles read: where they lie, or unpacked into scratch.
//
// The layout of packed vectors is that of flexplan/model/packing.py.  What a code stands for is not rounded to the model's
// dtype, since all sums are in float32.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../vectors.hpp"

namespace {

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

// Vectors of any packing.
struct Unpacked {
    using Element = float;
    int64_t row_bytes;

    explicit Unpacked(int64_t row_bytes) : row_bytes(row_bytes) {}

    // Into scratch, which has room for kWidth numbers more.
    virtual Rows<float> rows(const char* from, int64_t stride_bytes, int64_t n, float* scratch) const = 0;
};

// Vectors grouped along themselves; T is the dtype of scales and minima.
template <class T, int Bits>
struct Packed final : Unpacked {
    int64_t H, group_size, groups, code_bytes, scales_at;
    bool symmetric;
    void (Packed::*unpack)(const char*, int64_t, int64_t, float*) const;

    Packed(int64_t H, int64_t group_size, bool symmetric, int64_t row_bytes)
        : Unpacked(row_bytes), H(H), group_size(std::min(group_size, H)), symmetric(symmetric) {
        const int64_t size = sizeof(T);
        groups = (H + group_size - 1) / group_size;
        code_bytes = H * Bits / 8;
        scales_at = (code_bytes + size - 1) / size * size;
        const bool even = code_bytes % kWidth == 0 && (groups == 1 || group_size % kWidth == 0);
        unpack = even ? fitting(code_bytes / kWidth, this->group_size / kWidth) : &Packed::unpack_uneven;
    }

    Rows<float> rows(const char* from, int64_t stride_bytes, int64_t n, float* scratch) const override {
        (this->*unpack)(from, stride_bytes, n, scratch);
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

    using Unpack = decltype(Packed::unpack);

    // Where no register of elements lies in two groups or halves; unrolled for usual sizes, in registers.
    static Unpack fitting(int64_t codes, int64_t group) {
        if (codes == 2 && group == 2) return &Packed::template unpack_even<2, 2>;
        if (codes == 2 && group == 4) return &Packed::template unpack_even<2, 4>;
        if (codes == 4 && group == 2) return &Packed::template unpack_even<4, 2>;
        if (codes == 4 && group == 4) return &Packed::template unpack_even<4, 4>;
        if (codes == 4 && group == 8) return &Packed::template unpack_even<4, 8>;
        if (codes == 8 && group == 4) return &Packed::template unpack_even<8, 4>;
        if (codes == 8 && group == 8) return &Packed::template unpack_even<8, 8>;
        return &Packed::template unpack_even<0, 0>;
    }

    template <int N, int S>
    void unpack_even(const char* from, int64_t stride, int64_t rows, float* to) const {
        const int64_t codes = N ? N : code_bytes / kWidth, group = S ? S : group_size / kWidth;
        for (const char* end = from + rows * stride; from != end; from += stride, to += H) {
            Values<Bits> of[N ? (kHalves * N + S - 1) / S : kLargestHeadDim / kWidth];
#pragma GCC unroll 8
            for (int64_t g = 0; g < (N ? (kHalves * N + S - 1) / S : groups); ++g) of[g] = values(from, g);
#pragma GCC unroll 8
            for (int64_t b = 0; b < codes; ++b) {
                const Ints x = load_bytes(from + b * kWidth);
                store(to + b * kWidth, of[b / group](x));
                if constexpr (Bits == 4) store(to + (codes + b) * kWidth, of[(codes + b) / group](x >> 4));
            }
        }
    }

    // Anything else: each element has its own scale and minimum.  What is written too far is written again.
    void unpack_uneven(const char* from, int64_t stride, int64_t rows, float* to) const {
        for (int64_t t = 0; t < rows; ++t) unpack_one(from + t * stride, to + t * H);
    }

    void unpack_one(const char* from, float* to) const {
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
