// Where tokens lie: pages found by a table of addresses; and what is read next, asked for while something is computed.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace {

// n vectors in memory, stride bytes apart.
struct Run {
    const char* at = nullptr;
    int64_t stride = 0, n = 0;

    const char* row(int64_t t) const { return at + t * stride; }
    Run from(int64_t t, int64_t most) const { return {row(t), stride, std::min(n - t, most)}; }
};

// The tokens of one grain, keys or values: page i holds page_tokens of them, from table[i] + offset on.
struct Tokens {
    const int64_t* table;
    int64_t offset, page_tokens, stride;

    const char* row(int64_t t) const { return run(t, 1).at; }

    // Of tokens from t on at most so many, and none beyond their page.
    Run run(int64_t t, int64_t most) const {
        const int64_t page = t / page_tokens, within = t - page * page_tokens;
        const char* start = reinterpret_cast<const char*>(table[page]) + offset;
        return {start + within * stride, stride, std::min(most, page_tokens - within)};
    }
};

// Two tables of addresses (rows, num_pages), of keys and of values; a row's KV heads lie head_stride bytes apart.
struct Pages {
    const int64_t* table;
    int64_t rows, num_pages, page_tokens, heads, head_stride, token_stride;

    Tokens keys(int64_t g) const { return tokens(table, g); }
    Tokens values(int64_t g) const { return tokens(table + rows * num_pages, g); }

  private:
    Tokens tokens(const int64_t* of, int64_t g) const {
        return {of + g / heads * num_pages, g % heads * head_stride, page_tokens, token_stride};
    }
};

// Lines of memory to be read next.  They are asked for a few at each tick of the computation, so that memory works all
// the time; how many ticks a block takes is known from the one before.
class Ahead {
  public:
    explicit Ahead(int64_t row_bytes) : row_bytes_(row_bytes) {}

    // What follows: keys and values of the next block.  What was not asked for yet is dropped.
    void expect(const Run& keys, const Run& values) {
        const int64_t lines = (keys.n + values.n) * row_bytes_ / 64, ticks = ticks_ ? ticks_ : lines;
        each_ = lines / std::max<int64_t>(1, ticks) + 1;
        ticks_ = 0, next_ = 0;
        runs_[0] = keys, runs_[1] = values;
        start();
    }

    // `weight` is about how many lines were used meanwhile.
    __attribute__((always_inline)) void tick(int64_t weight = 1) {
        ticks_ += weight;
        for (int64_t i = each_ * weight; i > 0 && at_ < end_; --i) {
            __builtin_prefetch(at_, 0, 2);  // into the second cache
            at_ += 64;
            if (at_ >= end_) step();
        }
    }

  private:
    static constexpr int kRuns = 2;

    void start() {
        at_ = end_ = nullptr;
        for (; next_ < kRuns; ++next_) {
            const Run& run = runs_[next_];
            if (run.n == 0) continue;
            const bool dense = run.stride == row_bytes_;
            at_ = run.at, end_ = at_ + row_bytes_ * (dense ? run.n : 1), left_ = dense ? 0 : run.n - 1;
            return;
        }
    }

    void step() {
        if (left_ == 0) {
            ++next_;
            return start();
        }
        --left_;
        at_ = end_ - row_bytes_ + runs_[next_].stride, end_ = at_ + row_bytes_;
    }

    int64_t row_bytes_, each_ = 1, ticks_ = 0, left_ = 0;
    int next_ = 0;
    Run runs_[kRuns];
    const char *at_ = nullptr, *end_ = nullptr;
};

}  // namespace
