"""JSON without its traps: no duplicate keys, no NaN or Infinity; files are replaced whole or not at all."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from flexplan.limits import shown

_TO_ESCAPE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def parse_json(text: str) -> Any:
    """What a JSON text says; a ValueError names the duplicate key or the number that is not one.

    >>> parse_json('{"cores": 16}')
    {'cores': 16}
    """
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()  # half a character pair can be written nowhere
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("an escape is half of a surrogate pair, no character") from None
    return found


def json_line(found: Any) -> str:
    """One line of JSON: letters as they are, but escaped what ends a line somewhere, moves a terminal, or is no letter.

    >>> json_line({"text": "Grüße"})
    '{"text": "Grüße"}'
    """
    text = json.dumps(found, ensure_ascii=False)
    return _TO_ESCAPE.sub(lambda letter: f"\\u{ord(letter[0]):04x}", text)


def parse_lenient(text: str) -> Any:
    """The same of a text that Python or Windows wrote: NaN, Infinity and a byte order mark are let pass.

    >>> parse_lenient('\\ufeff{"limit": Infinity}')
    {'limit': inf}
    """
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_file(name: str | Path) -> bool:
    """Whether a text names a file; False, where Path raises, for a text that could name none."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def is_directory(name: str | Path) -> bool:
    """Whether a text names a directory."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a half."""
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _copy_mode(target, temporary)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {shown(key)} stands there twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that can be used")


def _copy_mode(target: Path, temporary: str) -> None:
    # mkstemp makes files only the owner reads; a result should be as readable as one that open() makes
    umask = os.umask(0)
    os.umask(umask)
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~umask
    Path(temporary).chmod(mode)
