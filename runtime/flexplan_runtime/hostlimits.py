"""Limits of host memory: of the containers (cgroups) around this process and of its own (ulimit); what they leave."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flexplan.errors import MemoryExhausted
from flexplan.units import MiB, format_size

PROC = Path("/proc")
_IN_MEMORY = frozenset(("tmpfs", "ramfs", "devtmpfs", "hugetlbfs"))
_UNLIMITED = 1 << 60  # version 1 says "none" with a number near 2**63
OWN_BYTES = 64 * MiB  # what loading and libraries take beside the arenas
# files of a group, by version: limits, what is used, and which of that the kernel takes back when it is short
_FILES = {
    "cgroup": (("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    "cgroup2": (("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file")),
}


@dataclass(frozen=True, slots=True)
class Room:
    """What one limit leaves; ``whose`` names the file or the ulimit that sets it."""

    left_bytes: int
    limit_bytes: int
    whose: str


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system: which directory of it lies where, and of what type it is."""

    root: str
    place: Path
    kind: str
    options: str


def room(proc: Path = PROC) -> Room | None:
    """The limit that leaves least; None where there is none."""
    return min((*_group_rooms(proc), *_own_rooms(proc)), key=lambda found: found.left_bytes, default=None)


def refuse_beyond(need_bytes: int, what: str, own_bytes: int = OWN_BYTES) -> None:
    """Raise MemoryExhausted where host memory of this size would end the process, which the kernel does unasked."""
    found = room()
    if found is None or need_bytes + own_bytes <= found.left_bytes:
        return
    left = format_size(max(0, found.left_bytes - own_bytes))
    raise MemoryExhausted(
        "FP710",
        f"{what} needs {format_size(need_bytes)} of host memory, {found.whose} leaves {left} "
        f"of {format_size(found.limit_bytes)}",
        fix="raise that limit, or solve again with a --cpu-mem (and, where the host computes, --gpu-mem) that fits it",
    )


def in_memory(path: Path, proc: Path = PROC) -> bool:
    """Whether a directory, which need not be there yet, lies in host memory: tmpfs and its like."""
    at = path.expanduser().absolute().resolve()
    around = [mount for mount in _mounts(proc) if at.is_relative_to(mount.place)]
    if not around:
        return False
    deepest = max(len(mount.place.parts) for mount in around)
    return [mount.kind for mount in around if len(mount.place.parts) == deepest][-1] in _IN_MEMORY


# -- containers --------------------------------------------------------------------------------------------------
def _group_rooms(proc: Path) -> Iterator[Room]:
    """Of this process's group and of all around it: each may be the tightest."""
    for mount in _mounts(proc):
        if mount.kind == "cgroup2" or (mount.kind == "cgroup" and "memory" in mount.options.split(",")):
            inside = _group_path(proc, mount)
            for directory in (mount.place / inside, *(mount.place / parent for parent in inside.parents)):
                yield from _rooms_of(directory, mount.kind)


def _group_path(proc: Path, mount: Mount) -> Path:
    """Where this process's group lies below the mount; a container may see its own group as the root."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        ours = number == "0" if mount.kind == "cgroup2" else "memory" in controllers.split(",")
        if ours and Path(path).is_relative_to(mount.root):
            return Path(path).relative_to(mount.root)
    return Path()


def _rooms_of(directory: Path, kind: str) -> Iterator[Room]:
    limits, usage, freeable = _FILES[kind]
    for name in limits:
        limit = _number(directory / name)
        if limit is not None and limit < _UNLIMITED:
            used = (_number(directory / usage) or 0) - sum(_counted(directory / "memory.stat", freeable))
            yield Room(max(0, limit - max(0, used)), limit, f"the cgroup limit {directory / name}")


def _counted(stat: Path, names: tuple[str, ...]) -> Iterator[int]:
    for line in _text(stat).splitlines():
        name, _, count = line.partition(" ")
        if name in names:
            yield int(count)


# -- the process itself ------------------------------------------------------------------------------------------
def _own_rooms(proc: Path) -> Iterator[Room]:
    pages = _text(proc / "self" / "statm").split()
    for name, limited, column in (("-v", resource.RLIMIT_AS, 0), ("-d", resource.RLIMIT_DATA, 5)):
        limit = resource.getrlimit(limited)[0]
        if 0 <= limit < _UNLIMITED and len(pages) > column:
            used = int(pages[column]) * os.sysconf("SC_PAGE_SIZE")
            yield Room(max(0, limit - used), limit, f"ulimit {name}")


# -- files of the kernel -----------------------------------------------------------------------------------------
def _mounts(proc: Path) -> Iterator[Mount]:
    for line in _text(proc / "self" / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        where, what = before.split(" "), after.split(" ")
        if len(where) > 4 and len(what) > 2:
            yield Mount(_unescaped(where[3]), Path(_unescaped(where[4])), what[0], what[2])


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None  # "max" is none


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
