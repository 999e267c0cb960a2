// Scores to weights in one pass over the context: a running largest score, and sums that decay when it grows.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "call.hpp"

namespace {

// Scores to weights exp(score - top) with the running top; decay is what older sums are multiplied with.
// Weights behind the n-th are 0, up to a whole vector.
inline void soften(float* scores, int64_t n, float& top, float& total, float& decay, Ahead& ahead) {
    const int64_t padded = (n + kWidth - 1) / kWidth * kWidth;
    std::fill(scores + n, scores + padded, -kInfinity);
    Floats most = splat(-kInfinity), added = {};
    for (int64_t t = 0; t < padded; t += kWidth) {
        Floats s = load(scores + t);
        most = most > s ? most : s;
    }
    const float now = std::max(top, largest(most)), from = now == -kInfinity ? 0.f : now;  // where nothing is seen yet
    for (int64_t t = 0; t < padded; t += kWidth) {
        Floats w = exponential(load(scores + t) - from);
        store(scores + t, w);
        added += w;
    }
    ahead.tick(padded / kWidth);
    decay = now == top ? 1.f : std::exp(top - from);
    total = total * decay + sum(added);
    top = now;
}

// All rows of scores of tokens [at, at + n), of which a new token sees none behind itself.
inline void soften_rows(const Call& c, float* scores, int64_t ld, int64_t at, int64_t n, Scratch& s, Ahead& ahead) {
    for (int64_t r = 0; r < c.R(); ++r) {
        const int64_t seen = c.sees(r) - at;
        if (seen < n) std::fill(scores + r * ld + std::max<int64_t>(seen, 0), scores + r * ld + n, -kInfinity);
        soften(scores + r * ld, n, s.top[r], s.total[r], s.decay[r], ahead);
    }
}

}  // namespace
