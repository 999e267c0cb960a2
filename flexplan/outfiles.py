"""Files a command writes: refused before the work where they cannot be, whole or not at all after it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from flexplan.answers import answers, is_answers, openable
from flexplan.errors import StorageError, UsageError
from flexplan.strictjson import write_whole

_FIX = "choose another path"


def refuse_unwritable(path: Path) -> None:
    """Raise UsageError where ``path`` could not be written; standard output by any of its names."""
    if is_answers(path):
        return
    target = path.resolve()
    if target.is_dir():
        raise UsageError("FP164", f"output {path} is a directory, must be a file", fix=_FIX)
    if _is_special(target):
        if not os.access(target, os.W_OK):
            raise UsageError("FP164", f"output {path} may not be written", fix=_FIX)
        return
    try:
        handle, probe = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise UsageError("FP164", f"output {path} cannot be written: {error.strerror}", fix=_FIX) from None
    os.close(handle)
    Path(probe).unlink()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; a device or pipe as it comes, standard output by any of its names."""
    if is_answers(path):
        answers().write(text)
        answers().flush()
        return
    target = path.resolve()
    if _is_special(target):
        save(target, lambda special: special.write_text(text, encoding="utf-8"))
    else:
        save(path, lambda _: write_whole(target, text))


def save(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with the path; the system's refusal is a StorageError."""
    try:
        write(openable(path))
    except OSError as error:
        raise StorageError("FP610", f"{path} cannot be written: {error.strerror or error}", fix=_FIX) from error


def _is_special(path: Path) -> bool:
    """A device or a pipe: renaming a file over it would destroy it."""
    return path.exists() and not path.is_file() and not path.is_dir()
