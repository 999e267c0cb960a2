"""The kernel's sources to a shared library for this machine, compiled once and kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from functools import lru_cache
from pathlib import Path

log = logging.getLogger(__name__)

FILES = ("attention.cpp", "codes.hpp", "pool.hpp", "rows.hpp", "vectors.hpp")
SOURCES = tuple(Path(__file__).with_name(name) for name in FILES)
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
COMPILE_TIMEOUT_S = 120

_one_at_a_time = threading.Lock()


def library() -> ctypes.CDLL | None:
    """The kernel, compiled at the first call; None, after one warning, where it cannot be."""
    with _one_at_a_time:
        return _library()


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    try:
        path = library_path()
        if not path.exists():
            compile_to(path)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        log.warning("attention on the host falls back to the slower one of torch: %s", error)
        return None


def library_path() -> Path:
    """Where the library for these sources, these flags and this processor is kept."""
    digest = hashlib.sha256()
    for part in (*(source.read_bytes() for source in SOURCES), " ".join(FLAGS).encode(), _processor().encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "flexplan" / "kernels" / f"{digest.hexdigest()}.so"


def compile_to(path: Path) -> None:
    """Compiles beside `path`, then renames, so that no one ever loads half a library."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise RuntimeError(f"no C++ compiler on PATH ({', '.join(COMPILERS)})")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, *FLAGS, str(SOURCES[0]), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:].strip()}")
        made.replace(path)


def _processor() -> str:
    """Model and instruction sets: virtual machines give different processors the same name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = {line for line in lines if line.startswith(("model", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), *sorted(told)])
