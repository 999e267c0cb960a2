// Which values are read where attention is sparse: those with the largest weights.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>

#include "call.hpp"
#include "softmax.hpp"

namespace {

// The tokens of [0, old) with the largest sums of shares over the queries, in order, then the new ones: to scratch.
inline void choose(const Call& c, int64_t old, int64_t ld, Scratch& s) {
    const int64_t kept = std::min(old, std::max<int64_t>(1, int64_t(c.sparsity * double(old))));
    s.ranks.assign(2 * old, 0.f);
    float *ranks = s.ranks.data(), *ordered = ranks + old;
    for (int64_t r = 0; r < c.R(); ++r) {
        const float share = 1.f / s.total[r], *weights = s.weights.data() + r * ld;
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
    for (int64_t t = old; t < old + c.N; ++t) s.chosen.push_back(int32_t(t));
}

// From all scores of a grain, (R, ld), to what is chosen by their weights; sums of weights begin again.
inline void select(const Call& c, int64_t first, int64_t tokens, int64_t ld, Scratch& s, Ahead& ahead) {
    soften_rows(c, s.weights.data(), ld, first, tokens, s, ahead);
    choose(c, tokens - c.N, ld, s);
    std::fill(s.total, s.total + c.R(), 0.f);
    std::fill(s.decay, s.decay + c.R(), 1.f);
}

// Of the values from `first` on, chosen ones [at, at + n) and their weights, (R, block), to scratch.
inline Run gather(const Call& c, const Tokens& values, int64_t first, int64_t row_bytes, int64_t at, int64_t n,
                  int64_t block, int64_t ld, Scratch& s) {
    constexpr int64_t kAhead = 8;
    const int64_t kept = s.chosen.size();
    if (int64_t(s.gathered.size()) < block * row_bytes) s.gathered.resize(block * row_bytes);
    for (int64_t r = 0; r < c.R(); ++r) std::fill(s.scores + r * block, s.scores + (r + 1) * block, 0.f);
    for (int64_t i = 0; i < n; ++i) {
        const int64_t t = s.chosen[at + i];
        if (at + i + kAhead < kept) prefetch(values.row(first + s.chosen[at + i + kAhead]), row_bytes);
        std::memcpy(s.gathered.data() + i * row_bytes, values.row(first + t), row_bytes);
        for (int64_t r = 0; r < c.R(); ++r) s.total[r] += s.scores[r * block + i] = s.weights[r * ld + t];
    }
    return {s.gathered.data(), row_bytes, n};
}

}  // namespace
