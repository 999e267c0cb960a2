// What is asked for, and the memory of a thread that computes it.
//
// Letters as in attention.cpp.  Strides of queries and results count elements.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "pages.hpp"
#include "vectors.hpp"

namespace {

struct Call {
    const void* q;
    void* out;
    Pages cache;
    const int64_t* pads;  // leading tokens not to be read, or null
    const float* sinks;   // (G, P) scores that take weight and have no value, or null
    int64_t G, N, P, H, C;
    int64_t q_G, q_N, q_P, out_G, out_N, out_P;
    float scale;
    double sparsity;  // share of the old tokens whose values are read; 1 is dense

    int64_t R() const { return N * P; }
    int64_t pad(int64_t g) const { return pads ? std::clamp<int64_t>(pads[g], 0, C - N) : 0; }
    int64_t sees(int64_t r) const { return C - N + 1 + r / P; }  // tokens that query r attends to

    // What a sink adds to the weights of query r, of whose scores `top` is the largest.
    float sunk(int64_t g, int64_t r, float top) const { return sinks ? std::exp(sinks[g * P + r % P] - top) : 0.f; }

    template <class T>
    const T* query(int64_t g, int64_t r) const {
        return static_cast<const T*>(q) + g * q_G + r / P * q_N + r % P * q_P;
    }

    template <class T>
    T* result(int64_t g, int64_t r) const {
        return static_cast<T*>(out) + g * out_G + r / P * out_N + r % P * out_P;
    }
};

// Queries, scores or weights (R, block), running sums (R, H), and what else the arithmetic needs.
struct Scratch {
    std::vector<char> memory;
    std::vector<float> weights, ranks;  // of the whole context where attention is sparse
    std::vector<int32_t> chosen;
    std::vector<char> gathered;
    float *scores, *decay, *acc, *top, *total;
    char* room;

    void fit(int64_t R, int64_t H, int64_t block, int64_t room_bytes) {
        const size_t need = size_t(R * (H + block + 3)) * 4 + room_bytes + 8 * 64;
        if (memory.size() < need) memory.resize(need);
        char* at = memory.data();
        scores = take<float>(at, R * block), acc = take<float>(at, R * H);
        decay = take<float>(at, R), top = take<float>(at, R), total = take<float>(at, R);
        room = take<char>(at, room_bytes);
        std::fill(acc, acc + R * H, 0.f);
        std::fill(top, top + R, -kInfinity);
        std::fill(total, total + R, 0.f);
    }

    // n things from `at` on, on cache lines of their own.
    template <class X>
    static X* take(char*& at, int64_t n) {
        char* here = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(at) + 63) & ~uintptr_t(63));
        at = here + n * int64_t(sizeof(X));
        return reinterpret_cast<X*>(here);
    }
};

}  // namespace
