"""Limits: how large a number, a name or a file may be; beyond them a digit too many is likelier than the wish.

All are far above what there is, and low enough that arithmetic with them stays finite and planning ends.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, ValidationError

MOST_BYTES = 1 << 60  # of a tier, a buffer or a size that is typed
MOST_LAYERS = 1 << 10  # the deepest models have some 130
MOST_WIDTH = 1 << 20  # of anything that a layer multiplies with
MOST_TOKENS = 1 << 24  # of a prompt or a context
MOST_NEW_TOKENS = 1 << 20
MOST_PROMPTS = 1 << 40
MOST_TEXT = 4096  # characters of a name: paths are as long
MOST_FILE_BYTES = 1 << 20  # of settings: hardware, policy fields, a problem file
MOST_PLAN_BYTES = 64 << 20  # of a plan, which holds the length of every prompt

_PIPES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
_SHOWN = 80


def _readable(text: str) -> str:
    """Refuse text that no file name or terminal takes: half a character pair, or a control character."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("holds characters that cannot be printed")
    return text


Width = Annotated[int, Field(ge=1, le=MOST_WIDTH)]
Bytes = Annotated[int, Field(ge=0, le=MOST_BYTES)]
Tokens = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Rate = Annotated[float, Field(ge=1, le=1e24, allow_inf_nan=False)]  # bytes or operations a second
FixedSeconds = Annotated[float, Field(ge=1e-15, le=3600, allow_inf_nan=False)]
Wish = Annotated[float, Field(ge=1e-15, le=1e18, allow_inf_nan=False)]  # of seconds, or of tokens a second
Text = Annotated[str, Field(max_length=MOST_TEXT)]
PlainText = Annotated[Text, AfterValidator(_readable)]


def shown(value: Any) -> str:
    """A value for a message: as it is written, of a long one the beginning.

    >>> shown("16G"), shown(10**9)
    ("'16G'", '1000000000')
    """
    if isinstance(value, int) and value.bit_length() > 8 * _SHOWN:
        return f"a number of about {round(value.bit_length() * 0.30103):,} digits"  # Python prints none so long
    if isinstance(value, str | bytes):
        value = value[: _SHOWN + 2]
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or with such a number within
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def wrong_type(what: str, wanted: str, given: object, instead: str) -> TypeError:
    """The TypeError of a function that was given another thing."""
    return TypeError(f"{what} takes {wanted}, not {type(given).__name__} {shown(given)}: {instead}")


def read_limited(path: str | Path, most_bytes: int) -> str:
    """The text of a file, whose kind and size are looked at first; of a pipe, as much as is allowed.

    Raises OSError where it cannot be read, ValueError where it is not a file, too long or not UTF-8.
    """
    # a named pipe that nobody writes to would never open
    with open(str(path), "rb", buffering=0, opener=regular) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise ValueError(f"it is {size} bytes, allowed {most_bytes}")
        found = b""
        while len(found) <= most_bytes and (more := file.read(most_bytes + 1 - len(found))):
            found += more
    if len(found) > most_bytes:
        raise ValueError(f"it is more than {most_bytes} bytes")
    return found.decode("utf-8-sig")


def regular(path: str, flags: int) -> int:
    """A descriptor of a regular file, or of a pipe that is open already; ValueError for anything else."""
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode) and not (stat.S_ISFIFO(mode) and path.startswith(_PIPES)):
        os.close(handle)
        raise ValueError(f"it is a {'directory' if stat.S_ISDIR(mode) else 'device or a pipe'}, not a regular file")
    os.set_blocking(handle, True)
    return handle


class Refused(NamedTuple):
    """The first thing wrong with what was given: where it stands, what is said of it, whether nobody knows the name."""

    where: str
    says: str
    unknown: bool


def first_refused(error: ValidationError) -> Refused:
    """What pydantic refused first, in words that show no more of a value than a line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    given = "" if first["type"] == "missing" else f"{shown(first['input'])} refused, "
    unknown = first["type"] in ("unexpected_keyword_argument", "extra_forbidden")
    return Refused(where[:200], given + first["msg"], unknown)
