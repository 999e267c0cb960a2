"""What the headers of a model's safetensors files say: names, dtypes and places of its tensors, read as plain data.

Planning has to know two things that stand only there: the dtype where ``config.json`` names none, and whether a head
is stored beside the token table that it is said to be.  Files that cannot be read count as none: the runtime, which
needs them, says what is wrong.  What is too large to be looked through is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from flexplan.errors import ModelFilesError
from flexplan.strictjson import parse_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# ten times what the largest models have; planning is to answer at once, whatever lies in a directory
_MOST_HEADER_BYTES = 8 << 20
_MOST_INDEX_BYTES = 16 << 20
_MOST_FILES = 4096
_CHUNK_BYTES = 4 << 20
# those in which a model can compute; codes of eight bits and fewer are not
_FLOATS: Mapping[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class StoredAt:
    """Where the bytes of a tensor are; ``begin`` counts from the beginning of its file."""

    file: Path
    dtype_name: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int


def stored_dtype(directory: Path) -> str | None:
    """The dtype that transformers takes where the config names none: what the index says, else the first float."""
    files, metadata = _files(directory)
    if isinstance(metadata.get("dtype"), str):
        return str(metadata["dtype"])
    found = _header(*_state(files[0])) if files else {}
    return next((_FLOATS[at.dtype_name] for _, at in sorted(found.items()) if at.dtype_name in _FLOATS), None)


def stored_tensors(directory: Path) -> dict[str, StoredAt]:
    """Every tensor of a model directory by its name; none unless all of its files can be read."""
    found: dict[str, StoredAt] = {}
    for file in _files(directory)[0]:
        header = _header(*_state(file))
        if not header:
            return {}
        found |= header
    return found


def same_numbers(one: StoredAt, other: StoredAt) -> bool:
    """Whether two tensors hold the same bytes; both are read up to the first difference."""
    if (one.dtype_name, one.shape, one.nbytes) != (other.dtype_name, other.shape, other.nbytes):
        return False
    return _same_bytes(one, other, _state(one.file), _state(other.file))


@lru_cache(maxsize=8)
def _same_bytes(one: StoredAt, other: StoredAt, *_states: object) -> bool:
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.begin)
        second.seek(other.begin)
        for done in range(0, one.nbytes, _CHUNK_BYTES):
            size = min(_CHUNK_BYTES, one.nbytes - done)
            if first.read(size) != second.read(size):
                return False
    return True


def _files(directory: Path) -> tuple[list[Path], Mapping[str, Any]]:
    """The files that hold the weights, in the order of transformers, and what their index says of them."""
    single, index = directory / SINGLE, directory / INDEX
    if single.is_file():
        return [single], {}
    try:
        content = parse_json(index.read_text(encoding="utf-8")) if _is_small(index) else {}
    except (OSError, ValueError):
        return [], {}
    content = content if isinstance(content, dict) else {}
    shards, metadata = content.get("weight_map"), content.get("metadata")
    names = {name for name in shards.values() if isinstance(name, str)} if isinstance(shards, dict) else set()
    _refuse_more(index, "files", len(names), _MOST_FILES)
    beside = sorted(name for name in names if "/" not in name and "\0" not in name)
    return [directory / name for name in beside], metadata if isinstance(metadata, dict) else {}


def _is_small(index: Path) -> bool:
    if not index.is_file():
        return False
    _refuse_more(index, "bytes", index.stat().st_size, _MOST_INDEX_BYTES)
    return True


def _refuse_more(file: Path, what: str, found: int, most: int) -> None:
    if found > most:
        message = f"{file}: {found} {what}, allowed are {most}"
        raise ModelFilesError("FP509", message, fix="give a checkpoint as it was published, or save it again")


def _state(file: Path) -> tuple[Path, int, int]:
    """The file as it is now, for which what was read of it holds."""
    try:
        found = file.stat()
    except OSError:
        return file, 0, 0
    return file, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=256)
def _header(file: Path, size: int, _changed_ns: int) -> dict[str, StoredAt]:
    if not file.is_file():  # what is no regular file might never end
        return {}
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > size - 8:
                return {}
            _refuse_more(file, "bytes of header", length, _MOST_HEADER_BYTES)
            header = parse_json(opened.read(length).decode("utf-8"))
        return {name: _entry(file, 8 + length, entry) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _entry(file: Path, data: int, entry: Mapping[str, Any]) -> StoredAt:
    begin, end = entry["data_offsets"]
    return StoredAt(
        file, str(entry["dtype"]), tuple(map(int, entry["shape"])), data + int(begin), int(end) - int(begin)
    )
