// Scores and weighted sums by vectors of float32: for any dtype and processor.
//
// PB queries at a time, against kTokens tokens for the scores (two for eight queries), and against HB vectors of the
// head dimension for the weighted sums, so that sums, keys and values stay in registers.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../call.hpp"
#include "rows.hpp"
#include "../vectors.hpp"

namespace {

constexpr int kTokens = 4;
constexpr int kMostHeads = kRegisters == 32 ? 8 : 2;

// Queries at a time for R of them, which share each conversion of a key to float32: all if they fit, else even parts.
inline int64_t tile_heads(int64_t R) {
    if (R % kMostHeads == 0) return kMostHeads;
    const int64_t most = std::min(kMostHeads, 6), parts = (R + most - 1) / most;  // 7 x 4 sums would not fit
    return (R + parts - 1) / parts;
}

constexpr int tile_vectors(int heads) { return heads == 8 ? 2 : heads * 8 <= kRegisters / 2 ? 8 : 4; }

// Calls f with the constant `heads`.
template <int N = kMostHeads, class F>
inline void with_heads(int64_t heads, F f) {
    if constexpr (N == 7)
        with_heads<6>(heads, f);
    else if constexpr (N == 1)
        f(std::integral_constant<int, 1>());
    else if (heads == N)
        f(std::integral_constant<int, N>());
    else
        with_heads<N - 1>(heads, f);
}

// Query-key products of PB queries with four tokens; the rows k[t] may repeat.
template <class T, int PB>
inline void products(const float* q, int64_t H, const T* const k[kTokens], float* scores, int64_t ld) {
    constexpr int TB = PB == 8 ? 2 : kTokens;
    for (int first = 0; first < kTokens; first += TB) {
        Floats sums[PB * TB] = {};
        for (int64_t h = 0; h < H; h += kWidth) {
            Floats x[TB];
            for (int t = 0; t < TB; ++t) x[t] = load(k[first + t] + h);
            for (int p = 0; p < PB; ++p) {
                Floats y = load(q + p * H + h);
                for (int t = 0; t < TB; ++t) sums[p * TB + t] += y * x[t];
            }
        }
        for (int p = 0; p < PB; p += kTokens / TB) {
            float four[kTokens];
            sum_each(sums + p * TB, four);
            for (int i = 0; i < kTokens; ++i) scores[(p + i / TB) * ld + first + i % TB] = four[i];
        }
    }
}

// acc = acc * decay + weights x values, for PB queries and HB vectors of the head dimension.
template <class T, int PB, int HB>
inline void weigh(const float* weights, int64_t ld, const Rows<T>& v, int64_t n, const float* decay, float* acc,
                  int64_t H, Ahead& ahead) {
    Floats a[PB][HB];
    for (int p = 0; p < PB; ++p)
        for (int h = 0; h < HB; ++h) a[p][h] = load(acc + p * H + h * kWidth) * decay[p];
    for (int64_t t = 0; t < n; ++t) {
        ahead.tick();
        Floats x[HB];
        for (int h = 0; h < HB; ++h) x[h] = load(v.at + t * v.stride + h * kWidth);
        for (int p = 0; p < PB; ++p) {
            Floats w = splat(weights[p * ld + t]);
            for (int h = 0; h < HB; ++h) a[p][h] += w * x[h];
        }
    }
    for (int p = 0; p < PB; ++p)
        for (int h = 0; h < HB; ++h) store(acc + p * H + h * kWidth, a[p][h]);
}

template <class T, int PB, int HB>
inline void weigh_all(const float* weights, int64_t ld, const Rows<T>& v, int64_t n, const float* decay, float* acc,
                      int64_t H, Ahead& ahead, int64_t h = 0) {
    for (; h + HB * kWidth <= H; h += HB * kWidth)
        weigh<T, PB, HB>(weights, ld, {v.at + h, v.stride}, n, decay, acc + h, H, ahead);
    if constexpr (HB > 1)  // the rest of the head dimension
        if (h < H) weigh_all<T, PB, HB / 2>(weights, ld, v, n, decay, acc, H, ahead, h);
}

// The arithmetic over any cache that gives rows of numbers; T is the dtype of queries.
template <class T, class Cache>
struct Registers {
    using E = typename Cache::Element;
    struct Session { explicit Session(const Call&) {} };

    Cache cache;

    int64_t row_bytes() const { return cache.row_bytes; }

    int64_t block(const Call& c) const {
        return std::clamp<int64_t>(32768 / (c.H * int64_t(sizeof(E))) / 16 * 16, 16, 128);
    }

    int64_t room_bytes(const Call& c) const { return (c.R() * c.H + block(c) * c.H + kWidth) * 4; }

    // Queries of grain g, scaled, to scratch.
    void begin(const Call& c, int64_t g, Scratch& s) const {
        for (int64_t r = 0; r < c.R(); ++r)
            for (int64_t h = 0; h < c.H; h += kWidth)
                store(queries(s) + r * c.H + h, load(c.query<T>(g, r) + h) * c.scale);
    }

    // Scores of keys, (R, ld); the last places behind them may be written.
    __attribute__((noinline)) void score(const Call& c, const Run& run, Scratch& s, float* scores, int64_t ld,
                                         Ahead& ahead) const {
        const int64_t heads = tile_heads(c.R()), n = run.n;
        const Rows<E> keys = cache.rows(run.at, run.stride, n, unpacked(c, s));
        for (int64_t t = 0; t < n; t += kTokens) {
            const E* row[kTokens];
            for (int i = 0; i < kTokens; ++i) row[i] = keys.at + std::min(t + i, n - 1) * keys.stride;
            for (int64_t r = 0; r < c.R(); r += heads)
                with_heads(std::min(heads, c.R() - r), [&](auto count) {
                    products<E, count.value>(queries(s) + r * c.H, c.H, row, scores + r * ld + t, ld);
                    ahead.tick();
                });
        }
    }

    // Weights x values onto the sums, which decay.
    __attribute__((noinline)) void weigh(const Call& c, const Run& run, Scratch& s, int64_t ld, Ahead& ahead) const {
        const int64_t heads = tile_heads(c.R());
        const Rows<E> values = cache.rows(run.at, run.stride, run.n, unpacked(c, s));
        for (int64_t r = 0; r < c.R(); r += heads)
            with_heads(std::min(heads, c.R() - r), [&](auto count) {
                constexpr int PB = count.value, HB = tile_vectors(PB);
                weigh_all<E, PB, HB>(s.scores + r * ld, ld, values, run.n, s.decay + r, s.acc + r * c.H, c.H, ahead);
            });
    }

    void settle(const Call&, Scratch&) const {}

  private:
    static float* queries(const Scratch& s) { return reinterpret_cast<float*>(s.room); }
    static float* unpacked(const Call& c, const Scratch& s) { return queries(s) + c.R() * c.H; }
};

}  // namespace
