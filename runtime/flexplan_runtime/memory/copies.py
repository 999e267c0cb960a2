"""Moves: bytes from one memory to another, counted where they move."""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from math import gcd

import torch
from torch import Tensor

from flexplan.errors import InternalError
from flexplan.graph import D2H, H2D_CACHE, H2D_SMALL, H2D_WEIGHTS, KINDS, Task
from flexplan_runtime.memory.arenas import Ledger

PIECE_BYTES = 64 << 20  # a small copy of another lane waits for one piece, not for a whole layer
_RESOURCE = {H2D_WEIGHTS: "up_bytes", H2D_CACHE: "up_bytes", H2D_SMALL: "up_bytes", D2H: "down_bytes"}
_SMALL_BYTES = 4 << 20
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ANY_DIRECTION = 4  # cudaMemcpyDefault: the driver sees from the addresses which way


def move(ledger: Ledger, task: Task, out: Tensor, data: Tensor) -> None:
    """``data`` into ``out`` on behalf of a task, on the current stream.

    Both are ranges of bytes, or both rows of equal length with a pitch of their own; a large range goes in pieces.
    """
    lane = KINDS[task.kind].lane
    if out.dim() == 2 and (out.is_cuda or data.is_cuda):
        _copy_rows(out, data)
    elif lane == H2D_SMALL and out.is_cuda and out.nbytes <= _SMALL_BYTES and data.data_ptr() % 16 == 0:
        _read_from_host(out, data)
    elif out.dim() == 2 or out.nbytes <= PIECE_BYTES:
        out.copy_(data, non_blocking=True)
    else:
        for start in range(0, len(out), PIECE_BYTES):
            out[start : start + PIECE_BYTES].copy_(data[start : start + PIECE_BYTES], non_blocking=True)
    resource = _RESOURCE.get(lane)
    if resource:
        ledger.count(resource, task.i, data.nbytes)


def fetch_rows(ledger: Ledger, task: Task, out: Tensor, data: Tensor, rows: Tensor, row_bytes: int) -> None:
    """Rows of ``row_bytes`` of host memory into ``out``; ``rows``, on the device, says which.

    A kernel of the device reads them across the link, and nothing else: the host gathers nothing, nobody waits.
    """
    word = _WORDS[gcd(row_bytes, 8)]
    source = _seen_by_device(data.data_ptr(), data.nbytes) if out.is_cuda else data
    shape = (-1, row_bytes // word.itemsize)
    torch.index_select(source.view(word).view(shape), 0, rows, out=out.view(word).view(shape))
    ledger.count(_RESOURCE[KINDS[task.kind].lane], task.i, out.nbytes)


def _read_from_host(out: Tensor, data: Tensor) -> None:
    """A kernel fetches the bytes itself, past the copy engine, which serves weights first come first served."""
    whole = out.nbytes // 4 * 4
    words = _seen_by_device(data.data_ptr(), whole).view(torch.int32)
    torch.bitwise_or(words, 0, out=out[:whole].view(torch.int32))


@lru_cache(maxsize=1024)
def _seen_by_device(address: int, nbytes: int) -> Tensor:
    """Registered host memory as bytes of the device: both sides see it at the same address."""
    return torch.as_tensor(_RegisteredBytes(address, nbytes), device="cuda")


class _RegisteredBytes:
    """Bytes that the framework did not allocate, described by the CUDA array interface."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 2,
        }


def _copy_rows(out: Tensor, data: Tensor) -> None:
    """One strided copy by the copy engine; the framework would stage it through a temporary and wait."""
    size = out.element_size()
    code = _cudart().cudaMemcpy2DAsync(
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_size_t(out.stride(0) * size),
        ctypes.c_void_p(data.data_ptr()),
        ctypes.c_size_t(data.stride(0) * size),
        ctypes.c_size_t(out.shape[1] * size),
        ctypes.c_size_t(out.shape[0]),
        ctypes.c_int(_ANY_DIRECTION),
        ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
    )
    if code != 0:
        raise InternalError("FP002", f"cudaMemcpy2DAsync returned {code}", fix="report it")


@cache
def _cudart() -> ctypes.CDLL:
    """The CUDA runtime that torch has loaded."""
    with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123 - not a file on disk
        paths = {line.split()[-1] for line in maps if "libcudart" in line}
    return ctypes.CDLL(min(paths)) if paths else ctypes.CDLL("libcudart.so")
