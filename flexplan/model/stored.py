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
from flexplan.files import parse_json
from flexplan.limits import read_limited, shown
from flexplan.model.header import FLOATS, TooMuch, read_header, refuse_more, what_it_is

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# ten times what the largest models have; planning is to answer at once, whatever lies in a directory
_MOST_INDEX_BYTES = 16 << 20
_MOST_FILES = 4096
_MOST_POINTER_BYTES = 1 << 12
_CHUNK_BYTES = 4 << 20
_SCALES = ("weight_scale_inv", "weight_scale", ".scales")
_POWERS = {"F8_E8M0": "e8m0"}
_MATRICES = tuple(
    f"{part}.weight" for part in ("proj", "fc", "fc1", "fc2", "c_attn", "query_key_value", "dense", "4h", "to_h")
)


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
    return next((FLOATS[at.dtype_name] for _, at in sorted(found.items()) if at.dtype_name in FLOATS), None)


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


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that a model directory should have; none where its index says nothing of use."""
    return _files(directory)[0]


def read_index(index: Path) -> tuple[dict[str, str], Mapping[str, Any]]:
    """Which file holds which tensor, and what the index says of them all; ValueError says what is wrong with it."""
    try:
        if index.is_file():
            refuse_more("bytes", index.stat().st_size, _MOST_INDEX_BYTES)
        content = parse_json(read_limited(index, _MOST_INDEX_BYTES))
    except TooMuch:
        raise
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"cannot be read as JSON: {error}") from error
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise ValueError("has no weight_map")
    weight_map = {name: shard if isinstance(shard, str) else shown(shard) for name, shard in shards.items()}
    refuse_more("files", len(set(weight_map.values())), _MOST_FILES)
    metadata = content.get("metadata")
    return weight_map, metadata if isinstance(metadata, dict) else {}


def _files(directory: Path) -> tuple[list[Path], Mapping[str, Any]]:
    """The files that hold the weights, in the order of transformers, and what their index says of them."""
    single = directory / SINGLE
    if single.is_file():
        return [single], {}
    weight_map, metadata = _index(*_state(directory / INDEX))
    beside = sorted(name for name in set(weight_map.values()) if "/" not in name and "\0" not in name)
    return [directory / name for name in beside], metadata


@lru_cache(maxsize=8)
def _index(index: Path, *_state: int) -> tuple[Mapping[str, str], Mapping[str, Any]]:
    try:
        return read_index(index)
    except TooMuch as error:
        raise _too_much(index, error) from error
    except ValueError:
        return {}, {}


def _state(file: Path) -> tuple[Path, int, int]:
    """The file as it is now, for which what was read of it holds."""
    try:
        found = file.stat()
    except OSError:
        return file, 0, 0
    return file, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=256)
def _header(file: Path, size: int, _changed_ns: int) -> dict[str, StoredAt]:
    try:
        if not file.is_file():  # what is no regular file might never end
            return {}
        with file.open("rb") as opened:
            entries = read_header(opened, size)
    except TooMuch as error:
        raise _too_much(file, error) from error
    except (OSError, ValueError):
        return {}
    return {name: StoredAt(file, at.dtype_name, at.shape, at.begin, at.nbytes) for name, at in entries.items()}


def _too_much(file: Path, error: TooMuch) -> ModelFilesError:
    return ModelFilesError("FP509", f"{file}: {error}", fix="give a checkpoint as it was published, or save it again")


def not_weights(directory: Path) -> str:
    """What stands in the place of a model's weights, as ``FILE is ...``; empty where nothing says it is anything else.

    Files of a few bytes are looked at: git-lfs leaves such where it did not fetch.
    """
    for file in weight_files(directory):
        try:
            small = file.is_file() and file.stat().st_size <= _MOST_POINTER_BYTES
            what = what_it_is(file.read_bytes()) if small else ""
        except OSError:
            what = ""
        if what:
            return f"{file.name} is {what}"
    return ""


def stored_scale(stored: Mapping[str, StoredAt]) -> str | None:
    """The dtype that scales of quantised matrices are stored in, None where there are none."""
    scales = (
        FLOATS.get(at.dtype_name, _POWERS.get(at.dtype_name)) for name, at in stored.items() if _is_scale(name, at)
    )
    return next((dtype for dtype in scales if dtype), None)


def _is_scale(name: str, at: StoredAt) -> bool:
    return name.endswith(_SCALES) and at.dtype_name in (*FLOATS, *_POWERS)


def packed_weight(stored: Mapping[str, StoredAt]) -> str:
    """Name and dtype of a matrix that is stored in other numbers than floats of 16 bits and more, or nothing."""
    codes = ((name, at) for name, at in stored.items() if name.endswith(_MATRICES) and at.dtype_name not in FLOATS)
    return next((f"{name} is stored as {at.dtype_name}" for name, at in codes), "")
