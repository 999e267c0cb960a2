"""The header of a safetensors file, as plain data: its sizes are bounded before anything is computed with them.

What the safetensors package refuses is refused, too: bytes that two tensors share, bytes that belong to none, a type
that it does not know, a shape that needs other bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

from flexplan.files import parse_json

_MOST_HEADER_BYTES = 8 << 20  # the largest models have some thousands of tensors in a file, of 100 bytes each
_MOST_TENSORS = 1 << 16  # in one file
_MOST_DIMENSIONS = 16
_MOST_ELEMENTS = 1 << 48  # of one dimension
_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E4M3FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
}
# those in which a model can compute, as torch and numpy call them; codes of eight bits and fewer are not
FLOATS: Mapping[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_POINTER = b"version https://git-lfs"
_OTHERS = {
    _POINTER: "a git-lfs pointer, not the file itself: fetch it with `git lfs pull`",
    b"GGUF": "a GGUF file: give it by its own path",
    b"PK\x03\x04": "a pickled PyTorch file; code-bearing files are not read",
    b"<!doctype html": "a web page, not the file itself: download it again",
    b"<html": "a web page, not the file itself: download it again",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file; ``begin`` counts from the beginning of the file."""

    dtype_name: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int


class TooMuch(ValueError):
    """More than is looked through; whoever plans is to be answered at once, whatever lies in a directory."""


def refuse_more(what: str, found: int, most: int) -> None:
    """A TooMuch where more is found than is looked through."""
    if found > most:
        raise TooMuch(f"{found} {what}, allowed are {most}")


def read_header(opened: BinaryIO, size: int) -> dict[str, Entry]:
    """The tensors of a file of `size` bytes by name; ValueError says what is wrong with it."""
    first = opened.read(8)
    length = int.from_bytes(first, "little")
    if size < 8 or length > size - 8:
        what = what_it_is(first + opened.read(64))
        if what:
            raise ValueError(f"is {what}")
        raise ValueError(f"is truncated or no safetensors file: {size} bytes, the header alone needs {length + 8}")
    refuse_more("bytes of header", length, _MOST_HEADER_BYTES)
    header = _parse(opened.read(length))
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not _is_texts(metadata):
        raise ValueError("header entry '__metadata__' is malformed")
    entries = {name: _entry(8 + length, name, entry) for name, entry in header.items()}
    _refuse_gaps(entries, 8 + length, size)
    return entries


def what_it_is(beginning: bytes) -> str:
    """What a file is that is taken for another, by its first bytes; empty where they say nothing."""
    start = beginning.lstrip().lower()
    return next((what for sign, what in _OTHERS.items() if start.startswith(sign.lower())), "")


def _parse(raw: bytes) -> dict[str, Any]:
    refuse_more("tensors", raw.count(b"{") - 2, _MOST_TENSORS)
    try:
        header = parse_json(raw.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"header is not JSON: {error}") from error
    if not isinstance(header, dict) or not raw.startswith(b"{"):
        raise ValueError("header is not a JSON object")
    return header


def _is_texts(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(value, str) for value in found.values())


def _entry(data: int, name: str, entry: Any) -> Entry:
    """One line of the header, with its numbers checked against each other."""
    try:
        dtype_name, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"header entry {name!r:.200} is malformed") from error
    if not (isinstance(dtype_name, str) and isinstance(shape, list) and _are_counts([begin, end]) and begin <= end):
        raise ValueError(f"header entry {name!r:.200} is malformed")
    if len(shape) > _MOST_DIMENSIONS or not _are_counts(shape):
        raise ValueError(f"header entry {name!r:.200} is malformed: its shape is not up to {_MOST_DIMENSIONS} counts")
    if dtype_name not in _BITS:
        raise ValueError(f"{name!r:.200}: dtype {dtype_name!r:.80} is not known")
    if (end - begin) * 8 != prod(shape) * _BITS[dtype_name]:
        wanted = f"its shape {shape} of {dtype_name} needs another number"
        raise ValueError(f"{name:.200}: {end - begin} bytes, {wanted}")
    return Entry(dtype_name, tuple(shape), data + begin, end - begin)


def _are_counts(numbers: list[Any]) -> bool:
    return all(type(n) is int and 0 <= n <= _MOST_ELEMENTS for n in numbers)


def _refuse_gaps(entries: dict[str, Entry], data: int, size: int) -> None:
    """Every byte after the header belongs to one tensor."""
    at = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].nbytes)):
        if entry.begin != at:
            what = (
                "overlaps the tensor before it" if entry.begin < at else "does not begin where the one before it ends"
            )
            raise ValueError(f"{name:.200}: {what}")
        at += entry.nbytes
    if at != size:
        what = "is truncated" if size < at else "is longer than its header says"
        raise ValueError(f"{what}: {size} bytes, its header needs {at}")
