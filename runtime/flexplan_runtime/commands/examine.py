"""What this runtime finds on a machine, and what lacking it costs: devices and compilers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import torch

from flexplan.job import Finding
from flexplan.units import format_size
from flexplan_runtime.kernels.availability import has_triton
from flexplan_runtime.kernels.host import uses_tiles
from flexplan_runtime.kernels.host.build import COMPILERS, library, library_path
from flexplan_runtime.measure import cores, cpu_model, memory_bytes
from flexplan_runtime.memory import room


def examine() -> Iterator[Finding]:
    """Devices first."""
    free = format_size(memory_bytes("MemAvailable"))
    yield Finding("processor", "ok", f"{cpu_model()}, {cores()} cores, {free} of memory free")
    if limit := room():
        found = f"{limit.whose} leaves {format_size(max(0, limit.left_bytes))} of {format_size(limit.limit_bytes)}"
        yield Finding("memory limit", "ok", found, "plans that need more are refused")
    yield from _devices()
    yield _compiler()
    yield _kernel()


def _devices() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        build = "no GPU that it can use" if torch.version.cuda else "built without CUDA"
        yield Finding("gpu", "missing", f"torch {torch.__version__}: {build}", "the host computes, far slower")
        return
    for n in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(n)
        found = f"{torch.cuda.get_device_name(n)}, {format_size(free)} of {format_size(total)} free"
        yield Finding(f"gpu {n}", "ok", found)
    if has_triton():
        yield Finding("triton", "ok", "compiles the CUDA kernels")
    else:
        yield Finding("triton", "missing", "not installed", "decoding on the GPU takes torch's slower operations")


def _compiler() -> Finding:
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found:
        return Finding("c++", "ok", found)
    lacking = f"none of {', '.join(COMPILERS)} on PATH"
    return Finding("c++", "missing", lacking, "attention on the host takes torch's slower operations")


def _kernel() -> Finding:
    if library() is not None:
        by = "AMX tiles" if uses_tiles() else "vectors"
        return Finding("host attention", "ok", f"by {by}; kernel in {library_path().parent}")
    return Finding("host attention", "missing", "its kernel does not compile", "torch's slower operations take over")
