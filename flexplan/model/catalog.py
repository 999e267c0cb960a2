"""Models known by name, as the ``config.json`` each of them has: planning needs no download.

Rows are what their makers published; a model directory on disk always comes before the row of its name.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from flexplan.errors import ModelFilesError, UsageError, did_you_mean
from flexplan.files import is_directory, is_file
from flexplan.limits import MOST_TEXT, shown
from flexplan.model.config import read_config
from flexplan.model.constants import ModelConstants
from flexplan.model.families import FAMILIES, why_not
from flexplan.model.formats import FORMATS
from flexplan.model.known import ALL, FP8_BLOCKS, MIRRORS, RENAMED, Config
from flexplan.model.places import (
    cached,
    downloads,
    gguf_place,
    has_config,
    hub_cache,
    hub_name,
    is_gguf,
    refuse_other_formats,
    snapshot_within,
)
from flexplan.model.shape import ModelShape

# behind the name of a model: in blocks of FP8 as Qwen publishes them; in 16 bits, where its maker gives fewer
_QUANTISED: dict[str, Config] = {"-fp8": {"quantization_config": FP8_BLOCKS}, "-bf16": {"quantization_config": None}}


@cache
def _configs() -> dict[str, Config]:
    return {name: config for series in ALL for name, config in series.configs()}


@cache
def _short_names() -> dict[str, str]:
    """Lower-case id, id without its owner, that without ``-hf``, and the names of others for it, each to the id."""
    names: dict[str, str] = {}
    for full in _configs():
        tail = full.lower().split("/")[1]
        names |= {full.lower(): full, tail: full, tail.removesuffix("-hf"): full}
        names |= {f"{mirror}/{tail}": full for mirror in MIRRORS}
    for other, prefix in RENAMED.items():
        short, wanted = other.split("/")[1], prefix.split("/")[1]
        names |= {short + n.removeprefix(wanted): full for n, full in names.items() if n.startswith(wanted)}
        for owner in (other.split("/")[0], *MIRRORS):
            names |= {f"{owner}/{n}": full for n, full in names.items() if n.startswith(short)}
    return names


def model_names() -> tuple[str, ...]:
    """The full Hugging Face ids that need no file."""
    return tuple(_configs())


def model_config(name: str) -> Config:
    """The ``config.json`` of a model known by its id or its short name; the caller may change it."""
    known = _short_names()
    full = known.get(name.lower())
    if full is not None:
        return dict(_configs()[full])
    for ending, change in _QUANTISED.items():
        if name.lower().endswith(ending) and (stem := name.lower().removesuffix(ending)) in known:
            return _configs()[known[stem]] | change
    raise _unknown(name)


def read_model(name: str | Path) -> tuple[ModelShape, ModelConstants]:
    """Sizes and constants of a model directory, a ``config.json``, or a model known by name.

    A name is looked for among flexplan's downloads, in the cache of the Hugging Face hub, then in the catalog.

    >>> read_model("opt-30b")[0].name
    'facebook/opt-30b'
    """
    text = str(name)
    if _is_place(text):
        return _read_place(Path(text))
    known = _short_names().get(text.lower())
    hub_id = known or hub_name(text)
    for place in cached(hub_id) if hub_id else ():
        if has_config(place):
            return read_config(place, hub_id)
    return read_config(model_config(text), known or text)


def model_shape(name: str | Path) -> ModelShape:
    """Only the sizes of `read_model`."""
    return read_model(name)[0]


def shape_to_run(name: str | Path) -> ModelShape:
    """The sizes of `read_model`; weights of a directory that no run would take are a ModelFilesError now.

    A ``config.json`` given by its own path is taken for its sizes alone, and so is a directory without weights.
    """
    text, shape = str(name), model_shape(name)
    if _is_place(text) and is_directory(text):
        from flexplan.model.checkpoint import refuse_unusable_weights  # a model known by name has none

        refuse_unusable_weights(snapshot_within(Path(text)), shape)
    return shape


def _is_place(text: str) -> bool:
    """Whether it is a path; a directory that only happens to bear the name of a model is not one."""
    known = text.lower() in _short_names()
    return bool(text) and (
        is_file(text) or has_config(text) or _npy_model(text) is not None or (not known and is_directory(text))
    )


def _read_place(path: Path) -> tuple[ModelShape, ModelConstants]:
    """By the config there, or, where FlexLLMGen wrote the files, by the model that the directory's name says."""
    place = snapshot_within(path)
    if is_gguf(place) and has_config(gguf_place(place)):
        return read_config(gguf_place(place), place.stem)
    full = _npy_model(place)
    if full:
        return read_config(_configs()[full], full)
    refuse_other_formats(place)
    if _is_npy(place):
        message = (
            f"{place}: one .npy file a tensor without a config.json, and {place.name} is the name of no known model"
        )
        raise ModelFilesError(
            "FP528", message, fix="put its config.json there, or name the directory as in opt-125m-np"
        )
    return read_config(place)


def _npy_model(directory: str | Path) -> str | None:
    """The model of a directory of one file a tensor, named as FlexLLMGen does: ``opt-125m-np``."""
    place = Path(directory)
    return _short_names().get(place.resolve().name.lower().removesuffix("-np")) if _is_npy(place) else None


def _is_npy(place: Path) -> bool:
    return is_directory(place) and not has_config(place) and any(place.glob("*embed_tokens.weight*"))


def _unknown(name: str) -> UsageError:
    why = why_not(name)
    if why:
        fix = f"use a model in 16 bits of these types: {', '.join(FAMILIES)}"
        if "packed" in why:
            fix = f"give its directory, if it is one of {FORMATS}; or {fix}"
        return UsageError("FP124", f"model {shown(name)} {why}", fix=fix)
    message = f"model {shown(name)} is neither a model directory nor a known name"
    if hub_name(name):
        message += f", and there is none of it in {downloads()} and {hub_cache()}"
    known = f"known are {', '.join(model_names()[:3])}, ..."
    hint = did_you_mean(name.lower()[:MOST_TEXT], _short_names(), known, most=3, called=_short_names())
    return UsageError("FP120", message, fix=f"{hint} or give a directory with a config.json")
