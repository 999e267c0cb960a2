"""Sizes as people type them: ``16G``, ``16Gi`` and ``16GiB`` count in 2**30, ``16GB`` in 10**9."""

from __future__ import annotations

import re

from flexplan.errors import UsageError
from flexplan.limits import MOST_BYTES, shown

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGTP]?)(I?B?)\s*$", re.IGNORECASE | re.ASCII)
_MOST_DIGITS = 40


def parse_size(text: str | int) -> int:
    """Bytes meant by a size; an int is bytes already.

    >>> parse_size("16G"), parse_size("1.5GB"), parse_size(4096)
    (17179869184, 1500000000, 4096)
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return _believed(text, text)
    match = _SIZE.match(text) if isinstance(text, str) else None
    if match is None:
        raise UsageError("FP101", f"size {shown(text)} is not a size", fix="write 16G (2**30), 16GB (10**9) or bytes")
    number, prefix, suffix = match.group(1), match.group(2).upper(), match.group(3).upper()
    base = 1000 if suffix == "B" and prefix else 1024
    factor = int(base ** _POWER[prefix])
    if len(number) > _MOST_DIGITS:
        raise UsageError("FP101", f"size {shown(text)} is too large", fix=f"give at most {MOST_BYTES} bytes")
    return _believed(int(number) * factor if number.isdigit() else round(float(number) * factor), text)


def _believed(nbytes: int, given: object) -> int:
    """The bytes, if there can be so many."""
    if nbytes < 0:
        raise UsageError("FP101", f"size {shown(given)} is negative", fix="give 0 or more bytes")
    if nbytes > MOST_BYTES:
        raise UsageError("FP101", f"size {shown(given)} is too large", fix=f"give at most {MOST_BYTES} bytes")
    return nbytes


def format_size(nbytes: float) -> str:
    """A size in both units, for people.

    >>> format_size(16 * 2**30)
    '16.00 GiB (17.18 GB)'
    """
    for step, prefix in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if abs(nbytes) >= 1024**step:
            return f"{nbytes / 1024**step:.2f} {prefix}iB ({nbytes / 1000**step:.2f} {prefix}B)"
    return f"{nbytes:.0f} B"


def round_up(nbytes: int, alignment: int) -> int:
    """The next multiple of ``alignment``."""
    return -(-nbytes // alignment) * alignment
