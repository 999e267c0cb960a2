// Scores and weighted sums through AMX tiles: products in bfloat16 that are exact, sums in float32.
//
// Scores: 16 tokens are a tile of rows as they lie in memory, 16 queries (or 8 in two parts) one of columns, put into
// pairs once a grain.  Sums: the weights of 8 queries, in two parts of eight bits, are a tile of rows; values are one
// of columns, for which two tokens' vectors are interleaved.  That leaves sums in another order than the head
// dimension's, put right once a grain.
#pragma once
#include "amx.hpp"
#if defined(FLEXPLAN_TILES)
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../call.hpp"
#include "halves.hpp"
#include "../vectors.hpp"

namespace {

constexpr int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Calls f with the constant n, of 1 to 4.
template <class F>
inline void with_count(int64_t n, F f) {
    if (n == 4) f(std::integral_constant<int, 4>());
    if (n == 3) f(std::integral_constant<int, 3>());
    if (n == 2) f(std::integral_constant<int, 2>());
    if (n == 1) f(std::integral_constant<int, 1>());
}

// T is the dtype of queries; Source gives the bfloat16 numbers of keys and values.
template <class T, class Source>
struct Tiles {
    struct Session : TileSession { explicit Session(const Call&) {} };

    Tiles(const Call& c, const Source& source)
        : source(source), groups(source.groups), steps(parts_of(c.H, kStep)), chunks(parts_of(c.R(), kQueries)),
          sums(parts_of(c.R(), kSums)), step_bytes(c.H / kTile * kParts * kTileBytes),
          tokens(std::clamp<int64_t>(16384 / (2 * c.H * kParts) / kStep * kStep, kStep, 128)) {}

    int64_t row_bytes() const { return source.vector_bytes; }
    int64_t block(const Call&) const { return tokens; }

    int64_t room_bytes(const Call& c) const { return Room(*this, c, nullptr).end - static_cast<char*>(nullptr); }

    void begin(const Call& c, int64_t g, Scratch& s) const {
        const Room room(*this, c, s.room);
        std::fill(room.acc, room.acc + sums * kTile * c.H, 0.f);
        std::fill(room.offsets, room.offsets + c.R() * groups, 0.f);
        std::memset(room.weights, 0, sums * groups * weight_bytes());
        std::memset(room.plain, 0, chunks * kTile * row_numbers(c.H) * 2);
        for (int64_t r = 0; r < c.R(); ++r) take_query(c, c.query<T>(g, r), r, room);
        for (int64_t i = 0; i < chunks * steps; ++i) pair_queries(c, i, room);
    }

    __attribute__((noinline)) void score(const Call& c, const Run& run, Scratch& s, float* scores, int64_t ld,
                                         Ahead& ahead) const {
        const Room room(*this, c, s.room);
        for (int64_t t = 0; t < run.n; t += 4 * kTile) {
            const Run some = run.from(t, 4 * kTile);
            const int64_t tiles = parts_of(some.n, kTile);
            const Parts keys = source.rows(some, tiles * kTile, room.rows);
            if (Source::kCodes) take_numbers(some, t, room);
            for (int64_t chunk = 0; chunk < chunks; ++chunk)
                for (int64_t g = 0; g < groups; ++g) {
                    with_count(tiles, [&](auto n) { multiply<n.value>(c, chunk, g, keys, room, ahead); });
                    const int64_t end = std::min((chunk + 1) * kQueries, c.R());
                    for (int64_t r = chunk * kQueries; r < end; ++r)
                        take_scores(c, r, g, t, tiles, room, scores + r * ld);
                }
        }
    }

    __attribute__((noinline)) void weigh(const Call& c, const Run& run, Scratch& s, int64_t ld, Ahead& ahead) const {
        const Room room(*this, c, s.room);
        if (Source::kCodes) take_numbers(run, 0, room);
        for (int64_t t = 0; t < run.n; t += kStep)
            interleave(c, source.rows(run.from(t, kStep), kStep, room.rows), room.values + t / kStep * step_bytes,
                       ahead);
        for (int64_t r = 0; r < c.R(); ++r) take_weights(c, run.n, r, s.scores + r * ld, s.decay[r], room);
        const int64_t group_tiles = parts_of(source.group_size, kTile);
        for (int64_t chunk = 0; chunk < sums; ++chunk)
            for (int64_t tile = 0, count; tile < c.H / kTile; tile += count) {
                const int64_t g = tile / group_tiles;
                count = std::min({int64_t(4), c.H / kTile - tile, (g + 1) * group_tiles - tile});
                with_count(count, [&](auto n) { accumulate<n.value>(c, chunk, g, tile, run.n, room, ahead); });
            }
    }

    // Sums in the order of the head dimension.
    void settle(const Call& c, Scratch& s) const {
        const Room room(*this, c, s.room);
        for (int64_t r = 0; r < c.R(); ++r) {
            float* to = s.acc + r * c.H;
            const float* upper = room.acc + weight_row(r) * c.H;
            for (int64_t h = 0; h < c.H; h += kStep) straighten(upper + h, upper + kSums * c.H + h, to + h, c.H - h);
            if constexpr (Source::kCodes)
                for (int64_t h = 0, g = 0; h < c.H; ++g)
                    for (const int64_t end = std::min(h + source.group_size, c.H); h < end; ++h)
                        to[h] += room.offsets[r * groups + g];
        }
    }

  private:
    static constexpr int kParts = Source::kParts, kQueryParts = std::is_same_v<T, Float16> ? 2 : 1;
    static constexpr int64_t kQueries = kTile / kQueryParts, kSums = kTile / 2;  // queries of a tile

    Source source;
    int64_t groups, steps, chunks, sums;  // groups and steps of a vector; tiles of columns and of rows for all queries
    int64_t step_bytes;  // of values of 32 tokens as columns
    int64_t tokens;      // of a block: its values fill a third of the first cache

    static int64_t query_row(int64_t r) { return r / kQueries * kTile + r % kQueries; }
    static int64_t weight_row(int64_t r) { return r / kSums * kTile + r % kSums; }
    int64_t weight_bytes() const { return kTile * tokens * 2; }  // of a tile and a group

    // The numbers of a step: where less than a step is left, some are met again, and their queries are 0 there.
    static int64_t first_of(const Call& c, int64_t step) {
        return std::min(step * kStep, std::max<int64_t>(0, c.H - kStep));
    }

    // Where things lie in a thread's memory.
    struct Room {
        char *queries, *rows, *values, *weights;
        float *scores, *acc, *query_sums, *offsets, *numbers;
        uint16_t* plain;  // queries in parts, as rows
        char* end;

        Room(const Tiles& by, const Call& c, char* at) {
            const int64_t wide = row_numbers(c.H);
            queries = Scratch::take<char>(at, by.chunks * by.steps * kTileBytes);
            rows = Scratch::take<char>(at, 4 * kTile * wide * 2 * kParts + 64);
            values = Scratch::take<char>(at, by.tokens / kStep * by.step_bytes);
            weights = Scratch::take<char>(at, by.sums * by.groups * by.weight_bytes());
            scores = Scratch::take<float>(at, 4 * kTile * kTile);
            acc = Scratch::take<float>(at, by.sums * kTile * c.H);
            query_sums = Scratch::take<float>(at, c.R() * by.groups);
            offsets = Scratch::take<float>(at, c.R() * by.groups);
            numbers = Scratch::take<float>(at, 2 * by.groups * (by.tokens + kStep));
            plain = Scratch::take<uint16_t>(at, by.chunks * kTile * wide);
            end = at + 64;
        }
    };

    // One query in parts, and for codes its sum over each group.
    void take_query(const Call& c, const T* q, int64_t r, const Room& room) const {
        const int64_t wide = row_numbers(c.H), part = kQueries * wide;
        for (int64_t h = 0; h < c.H; h += kTile) {
            const __m512 x = (__m512)load(q + h), upper = cut(x);
            uint16_t* to = room.plain + query_row(r) * wide + h;
            write(to, _mm512_cvtneps_pbh(upper));
            if constexpr (kQueryParts == 2) write(to + part, _mm512_cvtneps_pbh(x - upper));
        }
        if constexpr (Source::kCodes) {
            float* of = room.query_sums + r * groups;
            std::fill(of, of + groups, 0.f);
            for (int64_t h = 0; h < c.H; h += kTile) of[h / source.group_size] += sum(load(q + h));
        }
    }

    // The i-th tile of columns of chunks and steps.
    void pair_queries(const Call& c, int64_t i, const Room& room) const {
        const int64_t step = i % steps, chunk = i / steps;
        const int64_t wide = row_numbers(c.H), first = first_of(c, step), again = (step * kStep - first) / kPair;
        const uint16_t* from = room.plain + chunk * kTile * wide + first;
        char* to = room.queries + i * kTileBytes;
        for (int64_t pair = 0; pair < kTile; ++pair, from += kPair, to += 64)
            write(to, pair < again ? _mm512_setzero_si512() : column(from, wide * 2));
    }

    // 16 words of as many rows.
    static __m512i column(const void* from, int64_t row_bytes) {
        const __m512i rows = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        return _mm512_i32gather_epi32(_mm512_mullo_epi32(rows, _mm512_set1_epi32(int(row_bytes))), from, 1);
    }

    // Scales and minima of tokens of a block, the t-th the first of them: (2, groups, block and more).
    void take_numbers(const Run& run, int64_t t, const Room& room) const {
        const int64_t ld = tokens + kStep;
        for (int64_t g = 0; g < groups; ++g)
            for (int64_t i = 0; i < run.n; i += kTile) {
                __m512 scale, minimum;
                source.numbers(run, i, g, scale, minimum);
                float* to = room.numbers + g * ld + t + i;
                write(to, scale), write(to + groups * ld, minimum);
            }
    }

    // Products of N tiles of keys with a chunk of queries over the steps of a group: to room.scores.
    template <int N>
    void multiply(const Call& c, int64_t chunk, int64_t g, const Parts& keys, const Room& room, Ahead& ahead) const {
        const int64_t from = g * source.group_size / kStep;
        const int64_t to = std::min(steps, parts_of((g + 1) * source.group_size, kStep));
        zero_sums<N>();
        for (int64_t step = from; step < to; ++step)
            for (int part = 0; part < kParts; ++part) {
                const char* rows = keys.at + part * keys.part + 2 * first_of(c, step);
                add_rows<N>(rows, kTile * keys.stride, keys.stride, room.queries + (chunk * steps + step) * kTileBytes);
                ahead.tick(N);
            }
        store_sums<N>(room.scores, kTile * kTile, 64);
    }

    // Products to scores of query r, from token t on.
    void take_scores(const Call& c, int64_t r, int64_t g, int64_t t, int64_t tiles, const Room& room,
                     float* scores) const {
        const int64_t ld = tokens + kStep;
        const float* products = room.scores + r % kQueries;
        const float *scales = room.numbers + g * ld, *minima = scales + groups * ld;
        const float scale = c.scale, query_sum = Source::kCodes ? room.query_sums[r * groups + g] : 0.f;
        for (const int64_t end = t + tiles * kTile; t < end; t += kTile, products += kTile * kTile) {
            __m512 x = (__m512)column(products, 64);
            if constexpr (kQueryParts == 2) x += (__m512)column(products + kQueries, 64);
            if constexpr (Source::kCodes) x = x * read<__m512>(scales + t) + read<__m512>(minima + t) * query_sum;
            x *= scale;
            write(scores + t, g ? x + read<__m512>(scores + t) : x);
        }
    }

    // Values of 32 tokens to tiles of columns.
    static void interleave(const Call& c, const Parts& values, char* to, Ahead& ahead) {
        const int64_t H = c.H, stride = values.stride;
        for (int64_t pair = 0; pair < kTile; ++pair, to += 64) {
            ahead.tick(2 * H / kStep);
            for (int part = 0; part < kParts; ++part) {
                const char* row = values.at + part * values.part + 2 * pair * stride;
                interleave_two(row, row + stride, H, to + part * kTileBytes);
            }
        }
    }

    static void interleave_two(const char* first, const char* second, int64_t H, char* to) {
        for (; H >= kStep; H -= kStep, first += 64, second += 64, to += 2 * kParts * kTileBytes) {
            const __m512i a = read<__m512i>(first), b = read<__m512i>(second);
            write(to, _mm512_unpacklo_epi16(a, b)), write(to + kParts * kTileBytes, _mm512_unpackhi_epi16(a, b));
        }
        if (H == 0) return;
        const __m256i a = read<__m256i>(first), b = read<__m256i>(second);
        write(to, _mm256_unpacklo_epi16(a, b)), write(to + 32, _mm256_unpackhi_epi16(a, b));
    }

    // Both parts' sums, 32 or the 16 that are left, out of the order of `interleave`.
    static void straighten(const float* upper, const float* lower, float* to, int64_t left) {
        const __m512i a = (__m512i)(read<__m512>(upper) + read<__m512>(lower));
        if (left < kStep) return write(to, _mm512_shuffle_i64x2(a, a, 0xd8));
        const __m512i b = (__m512i)(read<__m512>(upper + kTile) + read<__m512>(lower + kTile));
        write(to, _mm512_permutex2var_epi64(a, _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0), b));
        write(to + kTile, _mm512_permutex2var_epi64(a, _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4), b));
    }

    // Weights of query r to both their parts, times the scales of codes; its sums decay.
    void take_weights(const Call& c, int64_t n, int64_t r, const float* weights, float decay, const Room& room) const {
        float* upper = room.acc + weight_row(r) * c.H;
        if (decay != 1.f) scale(upper, c.H, decay), scale(upper + kSums * c.H, c.H, decay);
        const int64_t row_bytes = tokens * 2, ld = tokens + kStep;
        for (int64_t g = 0; g < groups; ++g) {
            char* to = room.weights + (r / kSums * groups + g) * weight_bytes() + r % kSums * row_bytes;
            Floats added = {};
            for (int64_t t = 0; t < n; t += kStep) {
                Floats a = load(weights + t), b = t + kTile < n ? load(weights + t + kTile) : Floats{};
                if constexpr (Source::kCodes) {
                    const float *scales = room.numbers + g * ld + t, *minima = scales + groups * ld;
                    added += a * load(minima) + (t + kTile < n ? b * load(minima + kTile) : Floats{});
                    a *= load(scales), b = t + kTile < n ? b * load(scales + kTile) : b;
                }
                split((__m512)a, (__m512)b, to + 2 * t, to + kSums * row_bytes + 2 * t);
            }
            if constexpr (Source::kCodes) {
                float& offset = room.offsets[r * groups + g];
                offset = offset * decay + sum(added);
            }
        }
    }

    static void scale(float* sums, int64_t H, float by) {
        for (int64_t h = 0; h < H; h += kTile) store(sums + h, load(sums + h) * by);
    }

    // Weights x values of all steps onto N tiles of a chunk's sums.
    template <int N>
    void accumulate(const Call& c, int64_t chunk, int64_t g, int64_t tile, int64_t n, const Room& room,
                    Ahead& ahead) const {
        const int64_t row_bytes = tokens * 2;
        const char* weights = room.weights + (chunk * groups + g) * weight_bytes();
        float* acc = room.acc + chunk * kTile * c.H + tile * kTile;
        load_sums<N>(acc, kTile, c.H * 4);
        for (int64_t step = 0; step * kStep < n; ++step) {
            const char* columns = room.values + step * step_bytes + tile * kParts * kTileBytes;
            for (int part = 0; part < kParts; ++part) {
                add_columns<N>(weights + step * kStep * 2, row_bytes, columns + part * kTileBytes, kParts * kTileBytes);
                ahead.tick(N);
            }
        }
        store_sums<N>(acc, kTile, c.H * 4);
    }
};

}  // namespace
#endif
