// AMX tiles of bfloat16: whether this process may use them, and products of a few tiles at a time.
//
// A tile is 16 rows of 64 bytes.  A product adds, to 16 x 16 sums in float32, 16 rows of 32 numbers times 16 columns
// of 32 numbers; the columns' numbers lie in pairs, a row of 16 pairs for every two of them.  It takes 16 cycles.
#pragma once
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512BW__) && \
    defined(__AVX512VL__) && defined(__linux__)
#define FLEXPLAN_TILES 1
#include <cstdint>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int64_t kTile = 16, kPair = 2, kStep = 32;  // rows and columns; numbers of a row
constexpr int64_t kTileBytes = 1024;

// Asks the kernel, once for the process; where it refuses, the registers do the work.
inline bool tiles_granted() {
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
    return granted;
}

// Compilers do not know that tiles are loaded from memory and stored there.
inline void settle_memory() { __asm__ volatile("" ::: "memory"); }

// A thread's tiles, all of full size, for as long as it computes.
struct TileSession {
    TileSession() {
        alignas(64) struct {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } config;
        settle_memory();
        _tile_loadconfig(&config);
    }
    ~TileSession() { _tile_release(); }
    TileSession(const TileSession&) = delete;
    TileSession& operator=(const TileSession&) = delete;
};

// Up to four tiles of sums, in tiles 0 to 3.
template <int N>
inline void zero_sums() {
    settle_memory();
    _tile_zero(0);
    if constexpr (N > 1) _tile_zero(1);
    if constexpr (N > 2) _tile_zero(2);
    if constexpr (N > 3) _tile_zero(3);
}

template <int N>
inline void load_sums(const float* at, int64_t apart, int64_t row_bytes) {
    settle_memory();
    _tile_loadd(0, at, row_bytes);
    if constexpr (N > 1) _tile_loadd(1, at + apart, row_bytes);
    if constexpr (N > 2) _tile_loadd(2, at + 2 * apart, row_bytes);
    if constexpr (N > 3) _tile_loadd(3, at + 3 * apart, row_bytes);
}

template <int N>
inline void store_sums(float* at, int64_t apart, int64_t row_bytes) {
    _tile_stored(0, at, row_bytes);
    if constexpr (N > 1) _tile_stored(1, at + apart, row_bytes);
    if constexpr (N > 2) _tile_stored(2, at + 2 * apart, row_bytes);
    if constexpr (N > 3) _tile_stored(3, at + 3 * apart, row_bytes);
    settle_memory();
}

// Sums of N tiles of rows, `apart` bytes from each other, with one tile of columns.
template <int N>
inline void add_rows(const char* rows, int64_t apart, int64_t row_bytes, const char* columns) {
    _tile_loadd(4, columns, 64);
    _tile_loadd(5, rows, row_bytes);
    _tile_dpbf16ps(0, 5, 4);
    if constexpr (N > 1) {
        _tile_loadd(6, rows + apart, row_bytes);
        _tile_dpbf16ps(1, 6, 4);
    }
    if constexpr (N > 2) {
        _tile_loadd(5, rows + 2 * apart, row_bytes);
        _tile_dpbf16ps(2, 5, 4);
    }
    if constexpr (N > 3) {
        _tile_loadd(6, rows + 3 * apart, row_bytes);
        _tile_dpbf16ps(3, 6, 4);
    }
}

// Sums of one tile of rows with N tiles of columns, `apart` bytes from each other.
template <int N>
inline void add_columns(const char* rows, int64_t row_bytes, const char* columns, int64_t apart) {
    _tile_loadd(4, rows, row_bytes);
    _tile_loadd(5, columns, 64);
    _tile_dpbf16ps(0, 4, 5);
    if constexpr (N > 1) {
        _tile_loadd(6, columns + apart, 64);
        _tile_dpbf16ps(1, 4, 6);
    }
    if constexpr (N > 2) {
        _tile_loadd(5, columns + 2 * apart, 64);
        _tile_dpbf16ps(2, 4, 5);
    }
    if constexpr (N > 3) {
        _tile_loadd(6, columns + 3 * apart, 64);
        _tile_dpbf16ps(3, 4, 6);
    }
}

}  // namespace
#endif
