// The face of this room: which arithmetic a call gets, by its dtype, its cache and this processor.
//
// An arithmetic scores the keys of a block and weighs its values (`begin`, `score`, `weigh`, `settle`), in memory that
// it names (`room_bytes`), for blocks of a size that it likes (`block`), of rows of `row_bytes`:
//
//     Registers  vectors of float32: any dtype, any processor
//     Tiles      AMX, where the system grants it and there are enough queries to be worth the unpacking
//     Direct     one query against codes that are never unpacked
#pragma once
#include <cstdint>
#include <type_traits>

#include "../call.hpp"
#include "../vectors.hpp"
#include "codes.hpp"
#include "registers.hpp"
#include "rows.hpp"
#include "tiles.hpp"

namespace {

// How vectors are packed: bits, group size, symmetric, bytes of a vector.
struct Layout {
    int64_t bits, group_size, symmetric, vector_bytes;
};

inline bool uses_tiles() {
#if defined(FLEXPLAN_TILES)
    return tiles_granted();
#else
    return false;
#endif
}

template <class T, int Bits, class Use>
void with_packed(const Call& c, const Layout& layout, const Use& use) {
    const auto& [bits, group_size, symmetric, vector_bytes] = layout;
#if defined(FLEXPLAN_TILES)
    constexpr int64_t fewest = 5;  // queries that are worth unpacking to bfloat16
    if constexpr (sizeof(T) == 2)
        if (c.R() >= fewest && uses_tiles() && CodeHalves<T, Bits>::suits(c.H, group_size))
            return use(Tiles<T, CodeHalves<T, Bits>>(c, {c.H, group_size, bool(symmetric), vector_bytes}));
#endif
    if (c.R() == 1 && Codes<T, Bits>::suits(c.H, group_size, symmetric))
        use(Direct<T, Bits>{{c.H, group_size, bool(symmetric)}, vector_bytes});
    else
        use(Registers<T, Packed<T, Bits>>{{c.H, group_size, bool(symmetric), vector_bytes}});
}

template <class T, class Use>
void with_plain(const Call& c, const Use& use) {
#if defined(FLEXPLAN_TILES)
    constexpr int64_t fewest = std::is_same_v<T, Float16> ? 17 : 1;  // queries that are worth parting the cache
    if constexpr (sizeof(T) == 2)
        if (c.R() >= fewest && uses_tiles()) return use(Tiles<T, Halves16<T>>(c, Halves16<T>(c.H)));
#endif
    use(Registers<T, Plain<T>>{Plain<T>(c.H)});
}

// Calls `use` with the arithmetic for a call of dtype T; no layout is a plain cache.
template <class T, class Use>
void with_arithmetic(const Call& c, const Layout* layout, const Use& use) {
    if (!layout)
        with_plain<T>(c, use);
    else if (layout->bits == 4)
        with_packed<T, 4>(c, *layout, use);
    else
        with_packed<T, 8>(c, *layout, use);
}

}  // namespace
