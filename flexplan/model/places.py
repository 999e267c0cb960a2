"""Where a model lies that is given by name: flexplan's own downloads, or the cache of the Hugging Face hub.

The cache's layout is read here as the hub's client documents it, since planning does without that client.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from flexplan.errors import ModelFilesError
from flexplan.files import is_directory, is_file
from flexplan.limits import read_limited
from flexplan.model.header import what_it_is

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BARE_OPT = re.compile(r"opt-[\d.]+[mb]")
_REVISION = re.compile(r"[\w.-]{1,100}")
_HUB = "models--"
_MOST_REF_BYTES = 1 << 12
_OTHER_FILES = {
    "*.gguf": "GGUF files: give one of them by its own path",
    "adapter_config.json": "an adapter: merge it into its model first",
    "consolidated*": "the maker's own format: take the checkpoint that was converted for transformers",
    "model_index.json": "a pipeline that makes images",
}


def hub_name(name: str) -> str | None:
    """The id on the Hugging Face hub that a text may be; OPT's models need no owner.

    >>> hub_name("opt-125m"), hub_name("../models")
    ('facebook/opt-125m', None)
    """
    if _BARE_OPT.fullmatch(name):
        return f"facebook/{name}"
    return name if _HUB_NAME.fullmatch(name) and ".." not in name and "--" not in name else None


def downloads() -> Path:
    """The directory of flexplan's own downloads."""
    return _cache_home() / "flexplan" / "models"


def hub_cache() -> Path:
    """The directory of the hub's client."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.path.expandvars(os.environ[variable])).expanduser()
    home = os.environ.get("HF_HOME")
    return (Path(os.path.expandvars(home)).expanduser() if home else _cache_home() / "huggingface") / "hub"


def cached(name: str) -> Iterator[Path]:
    """The directories in which a model of the hub lies on this machine, flexplan's own first."""
    own = downloads() / name
    if is_directory(own):
        yield own
    in_cache = hub_cache() / (_HUB + name.replace("/", "--"))
    revision = _revision(in_cache)
    if revision and is_directory(in_cache / "snapshots" / revision):
        yield in_cache / "snapshots" / revision


def snapshot_within(directory: Path) -> Path:
    """The snapshot that a ``models--org--name`` directory names as its main one; any other directory is itself."""
    if directory.name == "snapshots" and directory.parent.name.startswith(_HUB):
        directory = directory.parent
    if not directory.name.startswith(_HUB) or is_file(directory / "config.json"):
        return directory
    snapshots = directory / "snapshots"
    if not is_directory(snapshots):
        return directory
    revision = _revision(directory)
    if revision and is_directory(snapshots / revision):
        return snapshots / revision
    there = sorted(entry.name for entry in snapshots.iterdir())[:3]
    raise ModelFilesError(
        "FP524",
        f"{directory}: is of the Hugging Face cache, and its refs/main names no snapshot that is there",
        fix=f"use {snapshots / there[0]}" if there else "download the model again",
    )


def here(name: str) -> Path:
    """The directory of a model that is on this machine, by its path or its name; ModelFilesError where none is."""
    given = directory_of(Path(name).expanduser())
    if is_directory(given):
        return snapshot_within(given)
    hub_id = hub_name(name)
    found = next(cached(hub_id), None) if hub_id else None
    if found is None:
        message = f"{name}: there is no such model directory, nor one in {downloads()} and {hub_cache()}"
        raise ModelFilesError("FP519", message, fix="give the directory of a model that is here")
    return found


def directory_of(path: Path) -> Path:
    """The directory of a ``config.json`` that is given by its own path; any other path is itself."""
    return path.parent if path.name == "config.json" and is_file(path) else path


def has_config(directory: str | Path) -> bool:
    """Whether a ``config.json`` is there, of whatever kind: one that cannot be read is refused, not passed by."""
    try:
        return os.path.lexists(Path(directory) / "config.json")
    except ValueError:  # a text that names no file
        return False


def model_name(directory: Path) -> str:
    """What a model of a directory is called: by the hub's id where the directory is a snapshot of its cache."""
    parts = directory.resolve().parts
    if len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith(_HUB):
        return parts[-3].removeprefix(_HUB).replace("--", "/", 1)
    return parts[-1] if parts else ""


def is_gguf(path: Path) -> bool:
    """Whether a file is of GGUF."""
    return is_file(path) and _first_bytes(path).startswith(b"GGUF")


def gguf_place(file: Path) -> Path:
    """The model directory that a GGUF file is converted into: another one where the file is, or becomes, another."""
    found = file.stat()
    known = f"{file.resolve()}/{found.st_size}/{found.st_mtime_ns}"
    return downloads().parent / "gguf" / f"{file.stem}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"


def refuse_other_formats(place: Path) -> None:
    """A ModelFilesError for what is no model directory, but is known to be something else."""
    if is_gguf(place):
        message = f"{place}: is a GGUF file that was not converted yet"
        raise ModelFilesError("FP529", message, fix=f"flexplan convert {place}")
    if is_file(place):
        what = what_it_is(_first_bytes(place))
    elif has_config(place):
        what = ""
    else:
        what = next((what for pattern, what in _OTHER_FILES.items() if any(place.glob(pattern))), "")
    if what:
        message = f"{place}: is no model directory but {what}"
        raise ModelFilesError(
            "FP525", message, fix="give the directory of a safetensors checkpoint with its config.json"
        )


def _first_bytes(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(64)
    except OSError:
        return b""


def _revision(directory: Path) -> str | None:
    try:
        found = read_limited(directory / "refs" / "main", _MOST_REF_BYTES).strip()
    except (OSError, ValueError):
        return None
    return found if _REVISION.fullmatch(found) and ".." not in found else None


def _cache_home() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(os.path.expandvars(home)).expanduser() if home else Path("~/.cache").expanduser()
