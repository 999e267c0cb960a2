"""The arithmetic of host attention: scores and weighted sums of a block of tokens, as this processor does them best.

choice.hpp     Which arithmetic a call gets: the face of this room, all that `attention.cpp` includes of it.
rows.hpp       Rows of keys and values: as they lie, or unpacked into scratch.
registers.hpp  Scores and weighted sums by vectors of float32: for any dtype and processor (AVX2, AVX-512, or neither).
codes.hpp      One query head against packed vectors, straight from their codes.
amx.hpp        AMX tiles of bfloat16: may they be used, and products of a few.
halves.hpp     Keys and values as the bfloat16 numbers that tiles multiply.
tiles.hpp      Scores and weighted sums through tiles.
"""
