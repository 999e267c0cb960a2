"""The kernel's sources to a shared library for this machine, compiled once and kept in the user's cache."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from flexplan.files import replacing, workshop

log = logging.getLogger(__name__)

MAIN = Path(__file__).with_name("attention.cpp")
SOURCES = (MAIN, *sorted(MAIN.parent.rglob("*.hpp")))
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread")
INSTRUCTIONS = {
    "native": ("-march=native",),
    "avx512": ("-march=native", "-mno-amx-tile", "-mno-amx-bf16"),
    "avx2": ("-march=x86-64-v3",),
    "baseline": (),
}
"""Flags of what the kernel may use: all that this processor has, or less, to try what others run."""
CHOICE = "FLEXPLAN_HOST_KERNEL"
"""The variable of the environment that names one of them."""
COMPILE_TIMEOUT_S = 300

_DIGEST_BYTES = 32
_MODE = 0o644
_LARGEST_BYTES = 1 << 26  # a library has some 200 KB
_FAILURES = (OSError, RuntimeError, subprocess.SubprocessError)

_one_at_a_time = threading.Lock()


def library() -> ctypes.CDLL | None:
    """The kernel, compiled at the first call; None, after one warning, where it cannot be."""
    with _one_at_a_time:
        return _library()


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    try:
        return _kept(library_path()) or _private()
    except _FAILURES as error:
        log.warning("attention on the host falls back to the slower one of torch: %s", error)
        return None


def _kept(path: Path) -> ctypes.CDLL | None:
    """From the user's cache, compiled into it where it is not whole; None where the cache cannot be trusted or used."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_strangers(path.parent)
        if not is_whole(path):
            compile_to(path)
        return _loaded(path)
    except OSError as error:
        log.warning("the kernel of attention on the host is compiled at each start, and not kept: %s", error)
        return None


def _loaded(path: Path) -> ctypes.CDLL:
    """By the number of the file that was looked at: its name may have become another's meanwhile."""
    with _opened(path) as file:
        if not _is_whole(file, path.name):
            raise PermissionError(errno.EPERM, "is not what was compiled into it", str(path))
        return ctypes.CDLL(f"/dev/fd/{file.fileno()}")


def _private() -> ctypes.CDLL:
    """Compiled for this process alone; a library that is loaded needs its name no more."""
    with workshop(Path(tempfile.gettempdir())) as folder:
        made = folder / "kernel.so"
        _compile(made)
        return ctypes.CDLL(str(made))


def refuse_strangers(directory: Path) -> None:
    """Raise PermissionError where others than this user and root could have put a library that would be executed."""
    found = directory.stat()
    if not _is_own(found):
        mode = stat.filemode(found.st_mode)
        message = f"belongs to user {found.st_uid} with {mode}; it must be yours and written by nobody else: chmod 700"
        raise PermissionError(errno.EPERM, message, str(directory))


def is_whole(path: Path) -> bool:
    """Whether the library at a path is this user's or root's alone, and ends with its checksum.

    One that is cut short would end the process (SIGBUS) wherever it is called.
    """
    try:
        with _opened(path) as file:
            return _is_whole(file, path.name)
    except OSError:
        return False


def _opened(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _is_whole(file: BinaryIO, name: str) -> bool:
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or not _is_own(found) or found.st_size > _LARGEST_BYTES:
        return False
    data = file.read()
    return len(data) > _DIGEST_BYTES and data[-_DIGEST_BYTES:] == _checksum(name, data[:-_DIGEST_BYTES])


def _checksum(name: str, data: bytes) -> bytes:
    return hashlib.sha256(name.encode() + data).digest()


def _is_own(found: os.stat_result) -> bool:
    """Whether nobody but this user and root may write it."""
    return found.st_uid in _trusted() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _trusted() -> tuple[int, int]:
    return 0, os.geteuid()


def library_path() -> Path:
    """Where the library for these sources, these flags and this processor is kept."""
    digest = hashlib.sha256()
    flags = " ".join((*FLAGS, *_instructions())).encode()
    for part in (*(source.read_bytes() for source in SOURCES), flags, _processor().encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "flexplan" / "kernels" / f"{digest.hexdigest()}.so"


def compile_to(path: Path) -> None:
    """Compiles beside `path` and puts it there whole and synced, its checksum behind it, which no loader reads."""
    with workshop(path.parent) as folder:
        made = folder / "kernel.so"
        _compile(made)
        data = made.read_bytes()
    with replacing(path, mode=_MODE) as out:
        out.write(data + _checksum(path.name, data))


def _compile(path: Path) -> None:
    """Compiler and linker put what they need meanwhile beside it."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise RuntimeError(f"no C++ compiler on PATH ({', '.join(COMPILERS)})")
    environment = os.environ | {"TMPDIR": str(path.parent)}
    for instructions in (_instructions(), ()):  # a compiler that does not know the flags may do without
        command = [compiler, *FLAGS, *instructions, str(MAIN), "-o", str(path)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False, env=environment
        )
        if done.returncode == 0:
            return
    raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:].strip()}")


def _instructions() -> tuple[str, ...]:
    name = os.environ.get(CHOICE) or "native"
    if name not in INSTRUCTIONS:
        raise RuntimeError(f"{CHOICE} is {name}; there are {', '.join(INSTRUCTIONS)}")
    return INSTRUCTIONS[name]


def _processor() -> str:
    """Model and instruction sets: virtual machines give different processors the same name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = {line for line in lines if line.startswith(("model", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), *sorted(told)])
