"""The lock of a model directory: SHA-256 and size of each of its files, so that what runs is what was looked at.

A lock that lies in a directory holds: names and sizes are compared whenever weights are opened, sums where asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flexplan.errors import ModelFilesError
from flexplan.files import write_whole
from flexplan.limits import MOST_FILE_BYTES, Bytes, PlainText, first_refused, read_limited, regular

LOCK = "flexplan.lock"
_CHUNK_BYTES = 8 << 20
_THREADS = 4  # a core sums about as fast as a disk reads
_MOST_FILES = 8192


class Locked(BaseModel):
    """A file as it was."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bytes: Bytes
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Lock(BaseModel):
    """The files of a model directory by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    files: Annotated[dict[PlainText, Locked], Field(max_length=_MOST_FILES)]


def write_lock(directory: Path) -> Lock:
    """Sum all files of a directory, and write what was found beside them."""
    names = _names(directory)
    if not names:
        raise _no_lock(f"{directory}: holds no files to be locked", "give a model directory")
    lock = Lock(files=dict(zip(names, _each(directory, names, _summed), strict=True)))
    try:
        write_whole(directory / LOCK, json.dumps(lock.model_dump(), indent=1) + "\n")
    except OSError as error:
        message = f"{directory / LOCK}: cannot be written: {error.strerror}"
        raise _no_lock(message, "make the directory writable, or lock a copy of it") from error
    return lock


def verify_lock(directory: Path) -> Lock:
    """The lock of a directory, whose every file was summed and found to be as it was; else all that differs."""
    lock = read_lock(directory)
    if lock is None:
        fix = f"lock what you have looked at: flexplan lock {directory}"
        raise _no_lock(f"{directory}: has no {LOCK}", fix)
    differing = unlike(directory, lock)
    alike = [name for name in lock.files if not any(said.startswith(f"{name}: ") for said in differing)]
    for name, found in zip(alike, _each(directory, alike, _summed), strict=True):
        if found != lock.files[name]:
            differing.append(f"{name}: its SHA-256 is {found.sha256[:12]}..., was {lock.files[name].sha256[:12]}...")
    _refuse(directory, differing)
    return lock


def refuse_unlike(directory: Path) -> None:
    """Raise where a directory has a lock and other files, or files of other sizes; nothing is read but the lock."""
    lock = read_lock(directory)
    if lock is not None:
        _refuse(directory, unlike(directory, lock))


def read_lock(directory: Path) -> Lock | None:
    """The lock of a directory, None where there is none."""
    place = directory / LOCK
    if not os.path.lexists(place):
        return None
    fix = f"lock the directory again: flexplan lock {directory}"
    try:
        return Lock.model_validate_json(read_limited(place, MOST_FILE_BYTES))
    except ValidationError as error:
        first = first_refused(error)
        raise _no_lock(f"{place}: {first.where or 'it'}: {first.says}", fix) from None
    except (OSError, ValueError) as error:
        raise _no_lock(f"{place}: cannot be read: {error}", fix) from None


def unlike(directory: Path, lock: Lock) -> list[str]:
    """What differs by names and sizes."""
    there = _names(directory)
    said = [f"{name}: is missing" for name in lock.files if name not in there]
    said += [f"{name}: was not there" for name in there if name not in lock.files]
    both = [name for name in there if name in lock.files]
    sizes = {name: (directory / name).stat().st_size for name in both}
    was = {name: lock.files[name].bytes for name in both}
    return said + [f"{name}: {sizes[name]} bytes, was {was[name]}" for name in both if sizes[name] != was[name]]


def _refuse(directory: Path, differing: list[str]) -> None:
    if differing:
        listed = "".join(f"\n  {said:.500}" for said in differing[:100])
        raise ModelFilesError(
            "FP518",
            f"{directory}: is not as {LOCK} says, in {len(differing)} file{'s' * (len(differing) > 1)}:{listed}",
            fix=f"download the model again; or, if the change is meant, flexplan lock {directory}",
        )


def _names(directory: Path) -> list[str]:
    """The files of a directory, hidden ones and the lock apart."""
    try:
        with os.scandir(directory) as entries:
            return sorted(e.name for e in entries if e.is_file() and e.name != LOCK and not e.name.startswith("."))
    except OSError as error:
        raise _no_lock(f"{directory}: cannot be read: {error.strerror}", "give a model directory") from error


def _each(directory: Path, names: list[str], sum_of: Callable[[Path], Locked]) -> list[Locked]:
    from concurrent.futures import ThreadPoolExecutor  # few ask for sums

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(sum_of, (directory / name for name in names)))


def _summed(file: Path) -> Locked:
    digest, size = hashlib.sha256(), 0
    try:
        with open(file, "rb", buffering=0, opener=regular) as opened:
            while chunk := opened.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except (OSError, ValueError) as error:
        raise _no_lock(f"{file}: cannot be read: {error}", "check the file") from error
    return Locked(bytes=size, sha256=digest.hexdigest())


def _no_lock(message: str, fix: str) -> ModelFilesError:
    """The error for a lock that cannot be made or read."""
    return ModelFilesError("FP517", message, fix=fix)
