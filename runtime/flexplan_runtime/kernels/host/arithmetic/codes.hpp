// One query head against packed vectors, straight from their codes.
//
// A code becomes the upper bits of a mantissa: one shift and one mask give 1 + code / 2^Bits for as many elements as a
// register has lanes, whichever of its bytes they lie in.  With f for that number, and s and m for scale and minimum,
//
//     q x = sum over groups of  2^Bits s (q f) + (m - 2^Bits s) sum(q)
//
// so scales and minima are met once a vector and group.  Elements stand in the order in which they come out of the
// words; queries are put into it, and sums out of it, once a grain.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../call.hpp"
#include "../vectors.hpp"

namespace {

template <class T, int Bits>
class Codes {
  public:
    // Whether all scales and minima fit a register, and each word lies in one group of each half.
    static bool suits(int64_t H, int64_t group_size, bool symmetric) {
        const int64_t groups = (H + group_size - 1) / group_size, numbers = groups * (symmetric ? 1 : 2);
        return numbers <= kWidth && (groups == 1 || group_size % 4 == 0) && H * Bits / 8 % 4 == 0 &&
               H <= kLargestHeadDim && numbers_end(H, numbers) >= kWidth * int64_t(sizeof(T));
    }

    Codes(int64_t H, int64_t group_size, bool symmetric)
        : H(H), group_size(group_size), groups((H + group_size - 1) / group_size), code_bytes(H * Bits / 8),
          chunks((code_bytes + kChunk - 1) / kChunk), symmetric(symmetric) {
        const int64_t numbers = groups * (symmetric ? 1 : 2);
        end = numbers_end(H, numbers), first = kWidth - numbers;
        for (int i = 0; i < kWidth; ++i) numbered[i] = i >= first ? -1 : 0;
        for (int64_t z = 0; z < chunks; ++z)
            for (int i = 0; i < kWidth; ++i) {
                const int64_t byte = z * kChunk + 4 * i;
                wanted[z][i] = byte < code_bytes ? -1 : 0;
                for (int half = 0; half < kHalves; ++half)
                    scale_of[z][half][i] = int(first + std::min(byte + half * code_bytes, H - 1) / group_size);
            }
    }

    int64_t order_size() const { return chunks * kCodes * kWidth; }

    // Queries into the order of the codes; what is not an element is 0.  Then what each number is multiplied with.
    void arrange(const float* q, float* ordered, Floats& with) const {
        std::fill(ordered, ordered + order_size(), 0.f);
        float sums[kWidth] = {}, factors[kWidth] = {};
        for (int64_t h = 0; h < H; ++h) ordered[place(h)] = q[h] * kScale, sums[h / group_size] += q[h];
        for (int64_t g = 0; g < groups; ++g) {
            factors[first + g] = -sums[g] * (symmetric ? kScale + kMiddle : kScale);
            if (!symmetric) factors[first + groups + g] = sums[g];
        }
        with = load(factors);
    }

    // Scores of four vectors.
    FLEXPLAN_INLINE void products(const float* ordered, Floats with, const char* const vector[4], float* scores) const {
        Floats total[4], shared[4];
        for (int t = 0; t < 4; ++t) shared[t] = numbers(vector[t]), total[t] = shared[t] * with;
        for (int64_t z = 0; z < chunks; ++z, ordered += kCodes * kWidth) {
            Words words[4];
            for (int t = 0; t < 4; ++t) words[t] = load_words(vector[t] + z * kChunk, wanted[z]);
            Floats sums[kHalves][4] = {};
            each_code([&](auto k) {
                const Floats q = load(ordered + k * kWidth);
                for (int t = 0; t < 4; ++t) sums[k % kHalves][t] += q * mantissa<k>(words[t]);
            });
            for (int half = 0; half < kHalves; ++half)
                for (int t = 0; t < 4; ++t) total[t] += sums[half][t] * pick(shared[t], scale_of[z][half]);
        }
        sum_each(total, scores);
    }

    // acc = acc * decay + weights x vectors, in the order of the codes; `seen` sums the weighted numbers.
    template <class Next>
    FLEXPLAN_INLINE void weigh(const float* weights, const char* vectors, int64_t stride, int64_t n, float decay, float* acc,
               Floats& seen, Next ask) const {
        Floats numbers_seen = seen * decay;
        for (int64_t z = 0; z < chunks; ++z, acc += kCodes * kWidth) {
            Floats a[kCodes];
            for (int k = 0; k < kCodes; ++k) a[k] = load(acc + k * kWidth) * decay;
            const Ints here = wanted[z];
            for (int64_t t = 0; t < n; ++t) {
                const char* vector = vectors + t * stride;
                const Floats shared = numbers(vector) * weights[t];
                if (z == 0) ask(t), numbers_seen += shared;
                Floats by[kHalves];
                for (int half = 0; half < kHalves; ++half) by[half] = pick(shared, scale_of[z][half]);
                const Words words = load_words(vector + z * kChunk, here);
                each_code([&](auto k) { a[k] += mantissa<k>(words) * by[k % kHalves]; });
            }
            for (int k = 0; k < kCodes; ++k) store(acc + k * kWidth, a[k]);
        }
        seen = numbers_seen;
    }

    // Sums out of the order of the codes.
    void restore(const float* acc, Floats seen, float* out) const {
        for (int64_t h = 0; h < H; ++h) {
            const int64_t g = h / group_size;
            const float scales = seen[first + g];
            out[h] = kScale * (acc[place(h)] - scales) + (symmetric ? -kMiddle * scales : seen[first + groups + g]);
        }
    }

  private:
    static constexpr int kHalves = 8 / Bits, kCodes = 32 / Bits;  // codes of a word
    static constexpr int64_t kChunk = 4 * kWidth, kMostChunks = kLargestHeadDim * Bits / 8 / kChunk;
    static constexpr float kScale = 1 << Bits, kMiddle = 1 << (Bits - 1);

    int64_t H, group_size, groups, code_bytes, chunks, end, first;
    bool symmetric;
    Ints numbered, wanted[kMostChunks], scale_of[kMostChunks][kHalves];

    static int64_t numbers_end(int64_t H, int64_t numbers) {
        const int64_t size = sizeof(T);
        return (H * Bits / 8 + size - 1) / size * size + numbers * size;
    }

    // Scales and minima, in the last lanes: what lies before them in the vector is its codes.
    FLEXPLAN_INLINE Floats numbers(const char* vector) const {
        const Floats x = load(reinterpret_cast<const T*>(vector + end) - kWidth);
        return (Floats)((Ints)x & numbered);
    }

    int64_t place(int64_t h) const {
        const int64_t byte = h % code_bytes, k = byte % 4 * kHalves + h / code_bytes;
        return (byte / kChunk * kCodes + k) * kWidth + byte % kChunk / 4;
    }

    // 1 + code / 2^Bits of the k-th code of each word.
    template <int k>
    static FLEXPLAN_INLINE Floats mantissa(Words words) {
        constexpr int shift = 23 - Bits - k * Bits;
        constexpr uint32_t mask = ((1u << Bits) - 1) << (23 - Bits);
        return (Floats)(((shift > 0 ? words << (shift & 31) : words >> (-shift & 31)) & mask) | 0x3f800000u);
    }

    template <class F>
    static FLEXPLAN_INLINE void each_code(F f) {
        f(std::integral_constant<int, 0>()), f(std::integral_constant<int, 1>());
        f(std::integral_constant<int, 2>()), f(std::integral_constant<int, 3>());
        if constexpr (kCodes == 8) {
            f(std::integral_constant<int, 4>()), f(std::integral_constant<int, 5>());
            f(std::integral_constant<int, 6>()), f(std::integral_constant<int, 7>());
        }
    }
};

// The arithmetic of one query over a packed cache whose codes are never unpacked.
template <class T, int Bits>
struct Direct {
    struct Session { explicit Session(const Call&) {} };

    Codes<T, Bits> codes;
    int64_t vector_bytes;

    int64_t row_bytes() const { return vector_bytes; }
    int64_t block(const Call&) const { return 128; }
    int64_t room_bytes(const Call& c) const { return (c.H + 2 * codes.order_size() + 2 * kWidth) * 4; }

    void begin(const Call& c, int64_t g, Scratch& s) const {
        float* q = factors(s) + 2 * kWidth + 2 * codes.order_size();
        for (int64_t h = 0; h < c.H; h += kWidth) store(q + h, load(c.query<T>(g, 0) + h) * c.scale);
        Floats with;
        codes.arrange(q, ordered(s), with);
        store(factors(s), with), store(seen(s), Floats{});
        std::fill(sums(s), sums(s) + codes.order_size(), 0.f);
    }

    __attribute__((noinline)) void score(const Call&, const Run& keys, Scratch& s, float* scores, int64_t,
                                         Ahead& ahead) const {
        const Floats with = load(factors(s));
        for (int64_t t = 0; t < keys.n; t += 4) {
            const char* vector[4];
            for (int i = 0; i < 4; ++i) vector[i] = keys.row(std::min(t + i, keys.n - 1));
            codes.products(ordered(s), with, vector, scores + t);
            ahead.tick();
        }
    }

    __attribute__((noinline)) void weigh(const Call&, const Run& values, Scratch& s, int64_t, Ahead& ahead) const {
        Floats numbers = load(seen(s));
        codes.weigh(s.scores, values.at, values.stride, values.n, *s.decay, sums(s), numbers,
                    [&](int64_t) { ahead.tick(); });
        store(seen(s), numbers);
    }

    void settle(const Call&, Scratch& s) const { codes.restore(sums(s), load(seen(s)), s.acc); }

  private:
    static float* factors(const Scratch& s) { return reinterpret_cast<float*>(s.room); }
    static float* seen(const Scratch& s) { return factors(s) + kWidth; }
    static float* ordered(const Scratch& s) { return factors(s) + 2 * kWidth; }
    float* sums(const Scratch& s) const { return ordered(s) + codes.order_size(); }
};

}  // namespace
