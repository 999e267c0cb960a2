// Decode attention over grains on the host: one pass over keys and values at the speed of memory.
//
// A grain is one KV head of one sequence and the queries that share it.  Its tokens are read in blocks: keys, then the
// same tokens' values (online softmax, sums in float32).  While a block is computed, the next one is asked for.
//
// The arithmetic of a block is chosen by `arithmetic/choice.hpp`.
//
// Letters as in attention.py: G grains, N new tokens, P query heads, R = N x P queries of a grain, C context,
// H head_dim.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <vector>

#include "arithmetic/choice.hpp"
#include "call.hpp"
#include "pages.hpp"
#include "pool.hpp"
#include "softmax.hpp"
#include "sparse.hpp"
#include "vectors.hpp"

namespace {

// -- one grain ---------------------------------------------------------------------------------------------------------
// Tokens [first, last) of grain g.
struct Span {
    int64_t g = 0, first = 0, last = 0;

    Run keys(const Call& c, int64_t at, int64_t most) const { return run(c.cache.keys(g), at, most); }
    Run values(const Call& c, int64_t at, int64_t most) const { return run(c.cache.values(g), at, most); }

  private:
    Run run(const Tokens& tokens, int64_t at, int64_t most) const {
        return at < last ? tokens.run(at, std::min(most, last - at)) : Run{};
    }
};

// Acc, top and total of a span in scratch; what comes next is asked for.
template <class Arithmetic>
void attend(const Call& c, const Arithmetic& by, const Span& span, const Span& next, Scratch& s, Ahead& ahead) {
    const int64_t block = by.block(c);
    s.fit(c.R(), c.H, block, by.room_bytes(c));
    by.begin(c, span.g, s);
    for (int64_t at = span.first; at < span.last;) {
        const Run keys = span.keys(c, at, block), values = span.values(c, at, block);
        const int64_t after = at + keys.n;
        const Span& follows = after < span.last ? span : next;
        const int64_t then = after < span.last ? after : next.first;
        ahead.expect(follows.keys(c, then, block), follows.values(c, then, block));
        by.score(c, keys, s, s.scores, block, ahead);
        soften_rows(c, s.scores, block, at, keys.n, s, ahead);
        by.weigh(c, values, s, block, ahead);
        at = after;
    }
    by.settle(c, s);
}

// The same where only some values are read: all scores first, then the chosen tokens gathered block by block.
template <class Arithmetic>
void attend_sparsely(const Call& c, const Arithmetic& by, const Span& span, Scratch& s, Ahead& ahead) {
    const int64_t tokens = span.last - span.first, block = by.block(c), ld = tokens + 16;
    s.fit(c.R(), c.H, block, by.room_bytes(c));
    by.begin(c, span.g, s);
    if (int64_t(s.weights.size()) < c.R() * ld) s.weights.resize(c.R() * ld);
    for (int64_t at = span.first; at < span.last;) {
        const Run keys = span.keys(c, at, block);
        ahead.expect(span.keys(c, at + keys.n, block), {});
        by.score(c, keys, s, s.weights.data() + at - span.first, ld, ahead);
        at += keys.n;
    }
    select(c, span.first, tokens, ld, s, ahead);
    for (int64_t at = 0, kept = s.chosen.size(); at < kept; at += block) {
        const int64_t n = std::min(block, kept - at);
        const Run values = gather(c, c.cache.values(span.g), span.first, by.row_bytes(), at, n, block, ld, s);
        by.weigh(c, values, s, block, ahead);
    }
    by.settle(c, s);
}

template <class T>
void finish(const Call& c, int64_t g, const float* acc, const float* top, const float* total) {
    for (int64_t r = 0; r < c.R(); ++r) {
        const float share = 1.f / (total[r] + c.sunk(g, r, top[r]));
        T* out = c.result<T>(g, r);
        for (int64_t h = 0; h < c.H; h += kWidth) store(out + h, load(acc + r * c.H + h) * share);
    }
}

// -- all grains --------------------------------------------------------------------------------------------------------
// Sums of one part of a grain's context, where few grains with long contexts are cut so that all threads work.
struct Partial {
    std::vector<float> acc, top, total;

    void keep(const Call& c, const Scratch& s) {
        acc.assign(s.acc, s.acc + c.R() * c.H);
        top.assign(s.top, s.top + c.R());
        total.assign(s.total, s.total + c.R());
    }

    void add(const Call& c, const Partial& other) {
        for (int64_t r = 0; r < c.R(); ++r) {
            if (other.total[r] == 0) continue;  // fewer tokens than parts, or none that are seen
            const float now = std::max(top[r], other.top[r]);
            const float old = std::exp(top[r] - now), fresh = std::exp(other.top[r] - now);
            for (int64_t h = r * c.H; h < (r + 1) * c.H; ++h) acc[h] = acc[h] * old + other.acc[h] * fresh;
            total[r] = total[r] * old + other.total[r] * fresh;
            top[r] = now;
        }
    }
};

// Grains cut into spans, which threads take a few at a time.
struct Spans {
    int64_t cuts, count, turn;

    Spans(const Call& c, int64_t row_bytes, int64_t threads) {
        const int64_t most_cuts = threads == 1 || c.sparsity < 1 ? 1 : std::max<int64_t>(1, c.C / 256);
        cuts = std::clamp<int64_t>(4 * threads / c.G, 1, most_cuts);
        count = c.G * cuts;
        // At least 256 KiB at a time, and at least 8 turns for each thread.
        const int64_t span_bytes = 2 * c.C * row_bytes / cuts + 1;
        turn = std::clamp<int64_t>((256 << 10) / span_bytes, 1, count / (8 * threads) + 1);
    }

    Span at(const Call& c, int64_t i) const {
        const int64_t g = i / cuts, cut = i % cuts, start = c.pad(g), length = c.C - start;
        return {g, start + length * cut / cuts, start + length * (cut + 1) / cuts};
    }
};

template <class T, class Arithmetic>
void attend_all(const Call& c, const Arithmetic& by, int64_t threads) {
    const Spans spans(c, by.row_bytes(), threads);
    std::vector<Partial> partials(spans.cuts > 1 ? spans.count : 0);
    std::atomic<int64_t> taken{0};
    const std::function<void()> job = [&] {
        thread_local Scratch scratch;
        const typename Arithmetic::Session session(c);
        Ahead ahead(by.row_bytes());
        int64_t from = taken.fetch_add(spans.turn);
        while (from < spans.count) {
            const int64_t following = taken.fetch_add(spans.turn), to = std::min(from + spans.turn, spans.count);
            for (int64_t i = from; i < to; ++i) {
                const int64_t after = i + 1 < to ? i + 1 : following;
                const Span span = spans.at(c, i), next = after < spans.count ? spans.at(c, after) : Span{};
                if (c.sparsity < 1)
                    attend_sparsely(c, by, span, scratch, ahead);
                else
                    attend(c, by, span, next, scratch, ahead);
                if (spans.cuts == 1)
                    finish<T>(c, span.g, scratch.acc, scratch.top, scratch.total);
                else
                    partials[i].keep(c, scratch);
            }
            from = following;
        }
    };
    threads = std::min(threads, spans.count);
    if (threads == 1)
        job();
    else
        pool().run(threads, job);
    for (int64_t g = 0; spans.cuts > 1 && g < c.G; ++g) {
        Partial& all = partials[g * spans.cuts];
        for (int64_t i = 1; i < spans.cuts; ++i) all.add(c, partials[g * spans.cuts + i]);
        finish<T>(c, g, all.acc.data(), all.top.data(), all.total.data());
    }
}

template <class T>
void attend_as(const Call& c, const Layout* layout, int64_t threads) {
    with_arithmetic<T>(c, layout, [&](const auto& arithmetic) { attend_all<T>(c, arithmetic, threads); });
}

}  // namespace

extern "C" int flexplan_uses_tiles() { return uses_tiles(); }

// dtype of queries, results and scales: 0 float32, 1 bfloat16, 2 float16.  0 is success.
// Pages: rows, num_pages, page_tokens, heads, head_stride, token_stride.
// Packing: bits, group size, symmetric, bytes of a vector; null is a plain cache.
// Sinks: a float32 for each query head of each grain, or null.
extern "C" int flexplan_grain_attention(int dtype, const void* q, const int64_t* table, const int64_t* pads,
                                        const float* sinks, void* out, const int64_t shape_GNPHC[5], const int64_t strides[6], const int64_t pages[6],
                                        const int64_t* packing, float scale, double sparsity, int64_t threads) {
    const int64_t *n = shape_GNPHC, *s = strides, *p = pages;
    const Call call{q, out, {table, p[0], p[1], p[2], p[3], p[4], p[5]}, pads, sinks, n[0], n[1], n[2], n[3], n[4],
                    s[0], s[1], s[2], s[3], s[4], s[5], scale, sparsity};
    const Layout layout = packing ? Layout{packing[0], packing[1], packing[2], packing[3]} : Layout{};
    const Layout* packed = packing ? &layout : nullptr;
    try {
        if (dtype == 0)
            attend_as<float>(call, packed, threads);
        else if (dtype == 1)
            attend_as<BFloat16>(call, packed, threads);
        else
            attend_as<Float16>(call, packed, threads);
    } catch (const std::exception&) {
        return 1;
    }
    return 0;
}
