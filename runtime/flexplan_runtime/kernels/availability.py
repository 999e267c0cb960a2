"""Is the compiler of the CUDA kernels there?  Without it everything runs on the framework's own operations."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from torch import Tensor

_MANY_TOKENS = 1024


@cache
def has_triton() -> bool:
    """Is Triton installed?"""
    return find_spec("triton") is not None


def compiles_for(x: Tensor) -> bool:
    """True where a kernel can be compiled for the device of ``x``; the modules of kernels are imported only then."""
    return x.is_cuda and has_triton()


def pays(tokens_a_row: int, tokens: int) -> bool:
    """True where our small kernels are the quicker ones.

    One token a row: such steps are captured.  A prompt's kernels are launched one by one, ours more slowly than the
    framework's, so they pay for many tokens, where moving the bytes takes longer than launching.
    """
    return tokens_a_row == 1 or tokens >= _MANY_TOKENS
