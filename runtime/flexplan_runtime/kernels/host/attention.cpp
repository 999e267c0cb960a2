// Decode attention over grains on the host: one pass over keys and values at the speed of memory.
//
// A grain is one KV head of one sequence and the P query heads that share it.  Its tokens are read in blocks of
// about 32 KiB of keys, then the same tokens' values (online softmax, all sums in float32).  While the keys of a
// block are used its values are prefetched, and while its values are used, the next block's keys.
//
// Packed keys and values are unpacked block by block into scratch that stays in the first cache.
//
// Letters as in attention.py: G grains, P query heads, C context, H head_dim.  Strides of keys and values count bytes,
// all others elements.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <type_traits>
#include <vector>

#include "codes.hpp"
#include "pool.hpp"
#include "rows.hpp"
#include "vectors.hpp"

namespace {

// -- one grain ---------------------------------------------------------------------------------------------------------
struct Call {
    const void* q;
    const char *k, *v;
    void* out;
    const int64_t* pads;  // leading tokens not to be read, or null
    int64_t G, P, H, C;
    int64_t q_G, q_P, k_G, k_C, v_G, v_C, out_G, out_P;
    float scale;
    double sparsity;  // share of the old tokens whose values are read; 1 is dense
};

// A sequence of rows in memory, `n` of them; what is read next while something else is used.
struct Upcoming {
    const char* at = nullptr;
    ptrdiff_t stride_bytes = 0, row_bytes = 0;
    int64_t n = 0;

    void ask(int64_t t) const {
        if (t < n) prefetch(at + t * stride_bytes, row_bytes);
    }
};

// Tiles: PB query heads at a time, against kTokens tokens for the scores (two for eight heads), and against HB vectors
// of the head dimension for the weighted sums, so that sums, keys and values stay in registers.
constexpr int kTokens = 4;
constexpr int kMostHeads = kRegisters == 32 ? 8 : 2;

// Heads at a time for P of them, which share each conversion of a key to float32: all if they fit, else even parts.
inline int64_t tile_heads(int64_t P) {
    if (P % kMostHeads == 0) return kMostHeads;
    const int64_t most = std::min(kMostHeads, 6), parts = (P + most - 1) / most;  // 7 x 4 sums would not fit
    return (P + parts - 1) / parts;
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

// Query-key products of PB heads with four tokens; the rows k[t] may repeat.
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

// acc = acc * decay + weights x values, for PB heads and HB vectors of the head dimension.
template <class T, int PB, int HB>
inline void weigh(const float* weights, int64_t ld, const T* v, int64_t stride, int64_t n, const float* decay, float* acc,
                  int64_t H, const Upcoming& next) {
    Floats a[PB][HB];
    for (int p = 0; p < PB; ++p)
        for (int h = 0; h < HB; ++h) a[p][h] = load(acc + p * H + h * kWidth) * decay[p];
    for (int64_t t = 0; t < n; ++t) {
        next.ask(t);
        Floats x[HB];
        for (int h = 0; h < HB; ++h) x[h] = load(v + t * stride + h * kWidth);
        for (int p = 0; p < PB; ++p) {
            Floats w = splat(weights[p * ld + t]);
            for (int h = 0; h < HB; ++h) a[p][h] += w * x[h];
        }
    }
    for (int p = 0; p < PB; ++p)
        for (int h = 0; h < HB; ++h) store(acc + p * H + h * kWidth, a[p][h]);
}

template <class T, int PB, int HB>
inline void weigh_all(const float* weights, int64_t ld, const T* v, int64_t stride, int64_t n, const float* decay,
                      float* acc, int64_t H, Upcoming next, int64_t h = 0) {
    for (; h + HB * kWidth <= H; h += HB * kWidth) {
        weigh<T, PB, HB>(weights, ld, v + h, stride, n, decay, acc + h, H, next);
        next.n = 0;  // asked for once
    }
    if constexpr (HB > 1)  // the rest of the head dimension
        if (h < H) weigh_all<T, PB, HB / 2>(weights, ld, v, stride, n, decay, acc, H, next, h);
}

struct Scratch {
    std::vector<float> memory, weights, ranks;  // of the whole context where attention is sparse
    std::vector<int32_t> chosen;
    std::vector<char> gathered;
    float *q, *scores, *decay, *acc, *top, *total, *rows;

    void fit(int64_t P, int64_t H, int64_t block) {
        size_t need = size_t(P * (2 * H + block + 3) + block * H + 8 * 16);
        if (memory.size() < need) memory.resize(need);
        float* at = memory.data();
        auto take = [&at](int64_t n) {  // each on its own cache line
            at = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(at) + 63) & ~uintptr_t(63));
            float* here = at;
            at += n;
            return here;
        };
        q = take(P * H), acc = take(P * H), scores = take(P * block), decay = take(P), top = take(P), total = take(P);
        rows = take(block * H + kWidth);
    }
};

// Scores to weights exp(score - top) with the running top; decay is what older sums are multiplied with.
inline void soften(float* scores, int64_t n, float& top, float& total, float& decay) {
    int64_t padded = (n + kWidth - 1) / kWidth * kWidth;
    std::fill(scores + n, scores + padded, -kInfinity);
    Floats most = splat(-kInfinity), added = {};
    for (int64_t t = 0; t < padded; t += kWidth) {
        Floats s = load(scores + t);
        most = most > s ? most : s;
    }
    float now = std::max(top, largest(most));
    for (int64_t t = 0; t < padded; t += kWidth) {
        Floats w = exponential(load(scores + t) - now);
        store(scores + t, w);
        added += w;
    }
    decay = std::exp(top - now);
    total = total * decay + sum(added);
    top = now;
}

constexpr int64_t kDirectTokens = 128;

template <class Cache>
int64_t block_tokens(const Call& c) {
    int64_t tokens = 32768 / (c.H * int64_t(sizeof(typename Cache::Element)));
    return std::clamp<int64_t>(tokens / 16 * 16, 16, 128);
}

// Queries of grain g to scratch, and nothing summed yet.
template <class T>
void begin(const Call& c, int64_t g, int64_t block, Scratch& s) {
    const T* q = static_cast<const T*>(c.q) + g * c.q_G;
    s.fit(c.P, c.H, block);
    for (int64_t p = 0; p < c.P; ++p)
        for (int64_t h = 0; h < c.H; h += kWidth) store(s.q + p * c.H + h, load(q + p * c.q_P + h) * c.scale);
    std::fill(s.acc, s.acc + c.P * c.H, 0.f);
    std::fill(s.top, s.top + c.P, -kInfinity);
    std::fill(s.total, s.total + c.P, 0.f);
}

// Scores of n keys, (P, ld), while `next` is asked for; the last three places behind them may be written.
template <class E>
void score(const Call& c, const Rows<E>& keys, int64_t n, const Upcoming& next, const Scratch& s, float* scores,
           int64_t ld) {
    const int64_t heads = tile_heads(c.P);
    for (int64_t t = 0; t < n; t += kTokens) {
        const E* row[kTokens];
        for (int i = 0; i < kTokens; ++i) {
            row[i] = keys.at + std::min(t + i, n - 1) * keys.stride;
            next.ask(t + i);
        }
        for (int64_t p = 0; p < c.P; p += heads)
            with_heads(std::min(heads, c.P - p), [&](auto n_heads) {
                products<E, n_heads.value>(s.q + p * c.H, c.H, row, scores + p * ld + t, ld);
            });
    }
}

// Weights x values of n tokens onto the sums, which decay, while `next` is asked for.
template <class E>
void weigh_rows(const Call& c, const Rows<E>& values, int64_t n, Upcoming next, const Scratch& s, int64_t ld) {
    const int64_t heads = tile_heads(c.P);
    for (int64_t p = 0; p < c.P; p += heads) {
        with_heads(std::min(heads, c.P - p), [&](auto n_heads) {
            constexpr int PB = n_heads.value, HB = tile_vectors(PB);
            weigh_all<E, PB, HB>(s.scores + p * ld, ld, values.at, values.stride, n, s.decay + p, s.acc + p * c.H, c.H,
                                 next);
        });
        next.n = 0;
    }
}

// Attention of grain g over tokens [first, last): acc, top and total in scratch.
template <class T, class Cache>
void attend(const Call& c, const Cache& cache, int64_t g, int64_t first, int64_t last, const Upcoming& next,
            Scratch& s) {
    using E = typename Cache::Element;
    const char *k = c.k + g * c.k_G, *v = c.v + g * c.v_G;
    const int64_t P = c.P, H = c.H, block = block_tokens<Cache>(c);
    begin<T>(c, g, block, s);
    for (int64_t at = first; at < last; at += block) {
        const int64_t n = std::min(block, last - at), after = at + n;
        const Rows<E> keys = cache.rows(k + at * c.k_C, c.k_C, n, s.rows);
        const Upcoming v_rows{v + at * c.v_C, c.v_C, cache.row_bytes, n};
        score(c, keys, n, v_rows, s, s.scores, block);
        for (int64_t p = 0; p < P; ++p) soften(s.scores + p * block, n, s.top[p], s.total[p], s.decay[p]);
        Upcoming k_rows = next;
        if (after < last) k_rows = {k + after * c.k_C, c.k_C, cache.row_bytes, std::min(block, last - after)};
        const Rows<E> values = cache.rows(v + at * c.v_C, c.v_C, n, s.rows);
        weigh_rows(c, values, n, k_rows, s, block);
    }
}

// The tokens of [0, old) with the largest sums of shares over the heads, in order, then the newest: to scratch.
inline void choose(const Call& c, int64_t old, int64_t ld, Scratch& s) {
    const int64_t kept = std::min(old, std::max<int64_t>(1, int64_t(c.sparsity * double(old))));
    s.ranks.assign(2 * old, 0.f);
    float *ranks = s.ranks.data(), *ordered = ranks + old;
    for (int64_t p = 0; p < c.P; ++p) {
        const float share = 1.f / s.total[p], *weights = s.weights.data() + p * ld;
        for (int64_t t = 0; t < old; ++t) ranks[t] += weights[t] * share;
    }
    s.chosen.clear();
    if (kept > 0) {
        std::copy(ranks, ordered, ordered);
        std::nth_element(ordered, ordered + kept - 1, ordered + old, std::greater<float>());
        const float least = ordered[kept - 1];
        int64_t equal = kept - std::count_if(ranks, ordered, [least](float rank) { return rank > least; });
        for (int64_t t = 0; t < old; ++t)
            if (ranks[t] > least || (ranks[t] == least && equal-- > 0)) s.chosen.push_back(int32_t(t));
    }
    s.chosen.push_back(int32_t(old));
}

// From all scores of a grain, (P, ld), to what is chosen by their weights; sums of weights begin again.
inline void select(const Call& c, int64_t tokens, int64_t ld, Scratch& s) {
    for (int64_t p = 0; p < c.P; ++p) soften(s.weights.data() + p * ld, tokens, s.top[p], s.total[p], s.decay[p]);
    choose(c, tokens - 1, ld, s);
    std::fill(s.total, s.total + c.P, 0.f);
    std::fill(s.decay, s.decay + c.P, 1.f);
}

// Chosen rows [at, at + n) of v and their weights, (P, block), to scratch.
inline const char* gather(const Call& c, const char* v, int64_t row_bytes, int64_t at, int64_t n, int64_t block,
                          int64_t ld, Scratch& s) {
    constexpr int64_t kAhead = 8;
    const int64_t kept = s.chosen.size();
    if (int64_t(s.gathered.size()) < block * row_bytes) s.gathered.resize(block * row_bytes);
    for (int64_t i = 0; i < n; ++i) {
        const int64_t t = s.chosen[at + i];
        if (at + i + kAhead < kept) prefetch(v + s.chosen[at + i + kAhead] * c.v_C, row_bytes);
        std::memcpy(s.gathered.data() + i * row_bytes, v + t * c.v_C, row_bytes);
        for (int64_t p = 0; p < c.P; ++p) s.total[p] += s.scores[p * block + i] = s.weights[p * ld + t];
    }
    return s.gathered.data();
}

// The same where only some values are read: all scores first, then the chosen tokens gathered block by block.
template <class T, class Cache>
void attend_sparsely(const Call& c, const Cache& cache, int64_t g, int64_t first, int64_t last, Scratch& s) {
    using E = typename Cache::Element;
    const char *k = c.k + g * c.k_G, *v = c.v + g * c.v_G;
    const int64_t tokens = last - first, block = block_tokens<Cache>(c), ld = tokens + 16;
    begin<T>(c, g, block, s);
    if (int64_t(s.weights.size()) < c.P * ld) s.weights.resize(c.P * ld);
    for (int64_t at = first; at < last; at += block) {
        const int64_t n = std::min(block, last - at), after = at + n;
        const Upcoming k_rows{k + after * c.k_C, c.k_C, cache.row_bytes, std::min(block, last - after)};
        score(c, cache.rows(k + at * c.k_C, c.k_C, n, s.rows), n, k_rows, s, s.weights.data() + at - first, ld);
    }
    select(c, tokens, ld, s);
    for (int64_t at = 0, kept = s.chosen.size(); at < kept; at += block) {
        const int64_t n = std::min(block, kept - at);
        const char* rows = gather(c, v + first * c.v_C, cache.row_bytes, at, n, block, ld, s);
        weigh_rows(c, cache.rows(rows, cache.row_bytes, n, s.rows), n, {}, s, block);
    }
}

// The same for one query head over packed vectors whose codes are never unpacked.
template <class T, int Bits>
struct Direct {
    Codes<T, Bits> codes;
    int64_t row_bytes;
};

template <class T, int Bits>
void attend(const Call& c, const Direct<T, Bits>& cache, int64_t g, int64_t first, int64_t last, const Upcoming& next,
            Scratch& s) {
    const char *k = c.k + g * c.k_G, *v = c.v + g * c.v_G;
    const int64_t block = kDirectTokens, size = cache.codes.order_size();
    begin<T>(c, g, block, s);
    float *ordered = s.rows, *acc = s.rows + size;  // nothing is unpacked, so the room for it is free
    Floats with, seen = {};
    cache.codes.arrange(s.q, ordered, with);
    std::fill(acc, acc + size, 0.f);
    for (int64_t at = first; at < last; at += block) {
        const int64_t n = std::min(block, last - at), after = at + n;
        const char *keys = k + at * c.k_C, *values = v + at * c.v_C;
        const Upcoming v_rows{values, c.v_C, cache.row_bytes, n};
        for (int64_t t = 0; t < n; t += kTokens) {
            const char* row[kTokens];
            for (int i = 0; i < kTokens; ++i) {
                row[i] = keys + std::min(t + i, n - 1) * c.k_C;
                v_rows.ask(t + i);
            }
            cache.codes.products(ordered, with, row, s.scores + t);
        }
        soften(s.scores, n, *s.top, *s.total, *s.decay);
        Upcoming k_rows = next;
        if (after < last) k_rows = {k + after * c.k_C, c.k_C, cache.row_bytes, std::min(block, last - after)};
        cache.codes.weigh(s.scores, values, c.v_C, n, *s.decay, acc, seen, [&](int64_t t) { k_rows.ask(t); });
    }
    cache.codes.restore(acc, seen, s.acc);
}

template <class T, int Bits>
void attend_sparsely(const Call& c, const Direct<T, Bits>& cache, int64_t g, int64_t first, int64_t last, Scratch& s) {
    const char *k = c.k + g * c.k_G + first * c.k_C, *v = c.v + g * c.v_G + first * c.v_C;
    const int64_t tokens = last - first, block = kDirectTokens, ld = tokens + 16, size = cache.codes.order_size();
    begin<T>(c, g, block, s);
    float *ordered = s.rows, *acc = s.rows + size;  // nothing is unpacked, so the room for it is free
    Floats with, seen = {};
    cache.codes.arrange(s.q, ordered, with);
    std::fill(acc, acc + size, 0.f);
    if (int64_t(s.weights.size()) < ld) s.weights.resize(ld);
    const Upcoming k_rows{k, c.k_C, cache.row_bytes, tokens};
    for (int64_t t = 0; t < tokens; t += kTokens) {
        const char* row[kTokens];
        for (int i = 0; i < kTokens; ++i) {
            row[i] = k + std::min(t + i, tokens - 1) * c.k_C;
            k_rows.ask(t + i + kDirectTokens);
        }
        cache.codes.products(ordered, with, row, s.weights.data() + t);
    }
    select(c, tokens, ld, s);
    for (int64_t at = 0, kept = s.chosen.size(); at < kept; at += block) {
        const int64_t n = std::min(block, kept - at);
        const char* rows = gather(c, v, cache.row_bytes, at, n, block, ld, s);
        cache.codes.weigh(s.scores, rows, cache.row_bytes, n, 1.f, acc, seen, [](int64_t) {});
    }
    cache.codes.restore(acc, seen, s.acc);
}

template <class T>
void finish(const Call& c, int64_t g, const float* acc, const float* total) {
    T* out = static_cast<T*>(c.out) + g * c.out_G;
    for (int64_t p = 0; p < c.P; ++p) {
        float share = 1.f / total[p];
        for (int64_t h = 0; h < c.H; h += kWidth) store(out + p * c.out_P + h, load(acc + p * c.H + h) * share);
    }
}

// -- all grains --------------------------------------------------------------------------------------------------------
// Sums of one part of a grain's context, where few grains with long contexts are cut so that all threads work.
struct Partial {
    std::vector<float> acc, top, total;
};

template <class T>
void merge(const Call& c, int64_t g, Partial* parts, int64_t num_parts) {
    Partial& all = parts[0];
    for (int64_t i = 1; i < num_parts; ++i)
        for (int64_t p = 0; p < c.P; ++p) {
            if (parts[i].total[p] == 0) continue;  // fewer tokens than parts
            const float now = std::max(all.top[p], parts[i].top[p]);
            const float old = std::exp(all.top[p] - now), fresh = std::exp(parts[i].top[p] - now);
            for (int64_t h = p * c.H; h < (p + 1) * c.H; ++h) all.acc[h] = all.acc[h] * old + parts[i].acc[h] * fresh;
            all.total[p] = all.total[p] * old + parts[i].total[p] * fresh;
            all.top[p] = now;
        }
    finish<T>(c, g, all.acc.data(), all.total.data());
}

template <class T, class Cache>
void attend_all(const Call& c, const Cache& cache, int64_t threads) {
    const int64_t grain_bytes = 2 * c.C * cache.row_bytes;
    const auto pad = [&c](int64_t g) { return c.pads ? std::clamp<int64_t>(c.pads[g], 0, c.C - 1) : 0; };
    const int64_t most_cuts = threads == 1 || c.sparsity < 1 ? 1 : std::max<int64_t>(1, c.C / 256);
    const int64_t cuts = std::clamp<int64_t>(4 * threads / c.G, 1, most_cuts);
    const int64_t num_units = c.G * cuts;
    // At least 256 KiB at a time, and at least 8 turns for each thread.
    const int64_t turn = std::clamp<int64_t>((256 << 10) / (grain_bytes / cuts + 1), 1, num_units / (8 * threads) + 1);
    std::vector<Partial> partials(cuts > 1 ? num_units : 0);
    std::atomic<int64_t> taken{0};
    const std::function<void()> job = [&] {
        thread_local Scratch scratch;
        for (;;) {
            const int64_t from = taken.fetch_add(turn), to = std::min(from + turn, num_units);
            if (from >= to) return;
            for (int64_t unit = from; unit < to; ++unit) {
                const int64_t g = unit / cuts, cut = unit % cuts, start = pad(g), length = c.C - start;
                const int64_t first = start + length * cut / cuts, last = start + length * (cut + 1) / cuts;
                Upcoming next;
                if (cuts == 1 && unit + 1 < to) {
                    const int64_t at = pad(g + 1);
                    next = {c.k + (g + 1) * c.k_G + at * c.k_C, c.k_C, cache.row_bytes, std::min(kDirectTokens, c.C - at)};
                }
                if (c.sparsity < 1)
                    attend_sparsely<T>(c, cache, g, first, last, scratch);
                else
                    attend<T>(c, cache, g, first, last, next, scratch);
                if (cuts == 1) {
                    finish<T>(c, g, scratch.acc, scratch.total);
                } else {
                    partials[unit].acc.assign(scratch.acc, scratch.acc + c.P * c.H);
                    partials[unit].top.assign(scratch.top, scratch.top + c.P);
                    partials[unit].total.assign(scratch.total, scratch.total + c.P);
                }
            }
        }
    };
    threads = std::min(threads, num_units);
    if (threads == 1)
        job();
    else
        pool().run(threads, job);
    for (int64_t g = 0; cuts > 1 && g < c.G; ++g) merge<T>(c, g, &partials[g * cuts], cuts);
}

template <class T, int Bits>
void attend_packed(const Call& c, int64_t group_size, bool symmetric, int64_t row_bytes, int64_t threads) {
    if (c.P == 1 && Codes<T, Bits>::suits(c.H, group_size, symmetric))
        attend_all<T>(c, Direct<T, Bits>{{c.H, group_size, symmetric}, row_bytes}, threads);
    else
        attend_all<T, Unpacked>(c, Packed<T, Bits>(c.H, group_size, symmetric, row_bytes), threads);
}

// Packing: bits, group size, symmetric, bytes of a vector.  Null is a plain cache.
template <class T>
void attend_cache(const Call& c, const int64_t* packing, int64_t threads) {
    if (!packing)
        attend_all<T>(c, Plain<T>(c.H), threads);
    else if (packing[0] == 4)
        attend_packed<T, 4>(c, packing[1], packing[2], packing[3], threads);
    else
        attend_packed<T, 8>(c, packing[1], packing[2], packing[3], threads);
}

}  // namespace

// dtype of queries, results and scales: 0 float32, 1 bfloat16, 2 float16.  0 is success.
extern "C" int flexplan_grain_attention(int dtype, const void* q, const char* k, const char* v, const int64_t* pads,
                                        void* out, const int64_t shape_GPHC[4], const int64_t strides[8],
                                        const int64_t* packing, float scale, double sparsity, int64_t threads) {
    const int64_t *n = shape_GPHC, *s = strides;
    const Call call{q, k, v, out, pads, n[0], n[1], n[2], n[3], s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], scale,
                    sparsity};
    try {
        if (dtype == 0)
            attend_cache<float>(call, packing, threads);
        else if (dtype == 1)
            attend_cache<BFloat16>(call, packing, threads);
        else
            attend_cache<Float16>(call, packing, threads);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}
