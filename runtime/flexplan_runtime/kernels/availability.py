"""Is the compiler of the CUDA kernels there?  Without it everything runs on the framework's own operations."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from torch import Tensor


@cache
def has_triton() -> bool:
    """Is Triton installed?"""
    return find_spec("triton") is not None


def compiles_for(x: Tensor) -> bool:
    """True where a kernel can be compiled for the device of ``x``; the modules of kernels are imported only then."""
    return x.is_cuda and has_triton()
