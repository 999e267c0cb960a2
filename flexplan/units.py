"""Sizes as people type them: ``16G``, ``16Gi`` and ``16GiB`` count in 2**30, ``16GB`` in 10**9."""

from __future__ import annotations

import re

from flexplan.errors import UsageError
from flexplan.limits import MOST_BYTES, shown

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGTP]?)(I?B?)\s*$", re.IGNORECASE | re.ASCII)
_MOST_DIGITS = 40

_DAY_S = 86400
_DURATIONS = (  # from how many seconds on, in which unit
    (2 * 365 * _DAY_S, 365 * _DAY_S, "years"),
    (2 * _DAY_S, _DAY_S, "days"),
    (2 * 3600, 3600, "h"),
    (600, 60, "min"),
    (1, 1, "s"),
    (float("-inf"), 1e-3, "ms"),
)


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


def format_duration(duration_s: float) -> str:
    """A duration for people, with three digits.

    >>> format_duration(0.01234), format_duration(349.2), format_duration(5025), format_duration(30459575)
    ('12.3 ms', '349 s', '83.8 min', '353 days')
    """
    unit_s, name = next((unit_s, name) for from_s, unit_s, name in _DURATIONS if duration_s >= from_s)
    count = duration_s / unit_s
    return f"{count:.3g} {name}" if count < 100 else f"{count:,.0f} {name}"


def round_up(nbytes: int, alignment: int) -> int:
    """The next multiple of ``alignment``."""
    return -(-nbytes // alignment) * alignment
