"""Decode attention on the host at the speed of its memory: a C++ kernel compiled on first use.

vectors.hpp    Vectors of float32 from float32, bfloat16 or float16.
pages.hpp      Where tokens lie, and what is read next, asked for ahead.
call.hpp       What is asked for, and the memory of a thread that computes it.
softmax.hpp    Scores to weights in one pass.
sparse.hpp     Which values are read where attention is sparse.
pool.hpp       Threads that wait for work.
arithmetic     A room of its own: scores and weighted sums of a block, by registers, by tiles, or straight from codes.
attention.cpp  Decode attention over grains, one pass over keys and values.
kernel         `GrainAttention`: the kernel called, on memory that stays where it is.
pages          Keys and values in pages: where each of them lies, as the kernel is told.
build          Compiles the kernel on first use and keeps it in the user's cache.
"""

from flexplan_runtime.kernels.host.kernel import GrainAttention, uses_tiles
from flexplan_runtime.kernels.host.pages import Pages

__all__ = ["GrainAttention", "Pages", "uses_tiles"]
