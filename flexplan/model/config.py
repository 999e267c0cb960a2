"""A Hugging Face ``config.json`` read as data: sizes for the planner, constants for the runtime's mathematics."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flexplan.errors import ModelFilesError
from flexplan.files import parse_lenient
from flexplan.limits import MOST_FILE_BYTES, read_limited, shown
from flexplan.model.constants import ModelConstants
from flexplan.model.families import FAMILIES, SAME_FAMILY, fields_of, names_of, read_family
from flexplan.model.formats import PACKED_BESIDE, UNPACKED, read_format, with_kept
from flexplan.model.header import what_it_is
from flexplan.model.places import model_name
from flexplan.model.shape import ModelShape
from flexplan.model.stored import (
    StoredAt,
    not_weights,
    packed_weight,
    same_numbers,
    stored_dtype,
    stored_scale,
    stored_tensors,
)
from flexplan.model.text_part import text_part
from flexplan.model.token_rules import read_ids, read_rules

_RUNS_CODE = ("auto_map", "custom_pipelines")
# keys by which transformers would compute something else, or nothing at all, in the families that are read here
_OTHER_MATHS = {
    "is_encoder_decoder": "an encoder",
    "per_layer_config": "layers that differ from each other",
    "kv_sharing_modes": "layers that share their keys and values",
    "text_config": "a model within a model",
    "decoder": "a model within a model",
    "generator": "a model within a model",
    "text_encoder": "a model within a model",
}
_SCALE = "stored scales"  # no key of a config.json: what the files say of the dtype of scales


def read_config(source: str | Path | Mapping[str, Any], name: str | None = None) -> tuple[ModelShape, ModelConstants]:
    """Sizes and constants of a model, from its directory, its ``config.json`` or that file's content.

    As in transformers, a directory's generation config is `generation_config.json`, end and pad ids included, and
    only where there is none the same keys of `config.json`.  Where the config names no dtype, or ties a head to the
    token table that is stored apart, the tensors of a directory decide; without them, a missing dtype counts as
    float16.
    """
    if isinstance(source, Mapping):
        given = text_part(source, "config.json")
        shape, math = _parse(given, name or str(given.get("model_type", "model")), "config.json")
        return shape, math.model_copy(update={"rules": read_rules(given, shape.vocab_size, "config.json")})
    path = Path(source)
    directory = path if path.is_dir() else path.parent
    where = directory / "config.json" if path.is_dir() else path
    config = dict(text_part(_read_object(where), str(where)))
    beside = directory / "generation_config.json"
    generation, its_place = (_read_object(beside), beside) if os.path.lexists(beside) else (config, where)
    if os.path.lexists(directory / PACKED_BESIDE):
        config = config | {PACKED_BESIDE: True}
    config = config | _by_tensors(config, directory)
    shape, math = _parse(config, name or model_name(directory), str(path))
    return shape, math.model_copy(update=_generation(generation, shape.vocab_size, str(its_place)))


def _generation(config: Mapping[str, Any], vocab_size: int, where: str) -> dict[str, Any]:
    """What `ModelConstants` takes from a generation config."""
    pads = read_ids(config.get("pad_token_id"), "pad_token_id", where, vocab_size)
    return {
        "eos_token_ids": read_ids(config.get("eos_token_id"), "eos_token_id", where, vocab_size),
        "pad_token_id": pads[0] if pads else None,
        "rules": read_rules(config, vocab_size, where),
    }


def shape_from_config(source: str | Path | Mapping[str, Any], name: str | None = None) -> ModelShape:
    """Only the sizes of `read_config`."""
    return read_config(source, name)[0]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        text = read_limited(path, MOST_FILE_BYTES)
    except OSError as error:
        reason = error.strerror or error
        raise ModelFilesError("FP501", f"{path} cannot be read: {reason}", fix="point at a model directory") from error
    except ValueError as error:
        raise ModelFilesError("FP501", f"{path} cannot be read: {error}", fix="download the file again") from error
    try:
        found = parse_lenient(text)
    except ValueError as error:
        what = what_it_is(text[:64].encode())
        said = f"is {what}" if what else f"is not JSON: {error}"
        raise ModelFilesError("FP501", f"{path} {said}", fix="download the file again") from error
    if not isinstance(found, dict):
        raise ModelFilesError("FP501", f"{path} holds a {type(found).__name__}, not an object", fix="download it again")
    return found


def _by_tensors(config: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """What the stored tensors say where the config is silent or wrong, as transformers takes it from them."""
    family = _family(config)
    if family is None:
        return {}  # refused by its type, whatever else is wrong
    packed = read_format(config, str(directory), "float16") is not None
    found: dict[str, Any] = {_SCALE: stored_scale(stored_tensors(directory))} if packed else {}
    if not config.get("dtype") and not config.get("torch_dtype"):
        found["dtype"] = stored_dtype(directory)
    tied = config.get("tie_word_embeddings", FAMILIES[family]["tie_word_embeddings"])
    tokens, head = _token_table_and_head(directory, family, packed)
    if tied is True and tokens and head and not same_numbers(tokens, head):
        found["tie_word_embeddings"] = False
        _say_untied(directory, head)
    if tied is False and tokens and not head:
        message = f"{directory}: tie_word_embeddings is false, but the files hold no head"
        fix = "use the whole checkpoint; or set tie_word_embeddings to true if the head is the token table"
        raise ModelFilesError("FP508", message, fix=fix)
    return found


@lru_cache(maxsize=64)
def _say_untied(directory: Path, _head: StoredAt) -> None:
    """Once for the same files, which a command may read more than once."""
    message = f"{directory}: tie_word_embeddings is true, but a head is stored and differs: it is used untied"
    warnings.warn(message, stacklevel=5)


def _token_table_and_head(directory: Path, family: str, packed: bool) -> tuple[StoredAt | None, StoredAt | None]:
    stored, names = stored_tensors(directory), names_of(family)
    tokens = [f"{root}{part}.weight" for root in names.roots for part in names.outside["tokens"]]
    heads = [f"{part}.weight" for part in names.outside["lm_head"]]
    if what := not_weights(directory):
        raise ModelFilesError("FP527", f"{directory}: {what}", fix="fetch the weights themselves")
    if not packed and (what := packed_weight(stored)):
        raise ModelFilesError("FP504", f"{directory}: {what}, and config.json does not say how", fix=UNPACKED)
    return _first(stored, tokens), _first(stored, heads)


def _first(stored: Mapping[str, StoredAt], names: list[str]) -> StoredAt | None:
    return next((stored[name] for name in names if name in stored), None)


def _parse(config: Mapping[str, Any], name: str, where: str) -> tuple[ModelShape, ModelConstants]:
    family = _family(config)
    if family is None:
        raise _unsupported(config, where)
    _refuse_other_maths(config, where)
    fields = fields_of(config, family, where)
    stored = read_format(config, where, fields.dtype(), config.get(_SCALE))
    if stored and "qkv" in names_of(family).transposed:
        message = f"{where}: matrices of {family} lie by input, of which no packed format ({stored[0].name}) is read"
        raise ModelFilesError("FP504", message, fix=UNPACKED)
    try:
        shape, math = read_family(fields, name)
        return (with_kept(shape, *stored, where) if stored else shape), math
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, first['loc'])) or 'sizes'} {shown(first['input'])}: {first['msg']}"
        raise ModelFilesError("FP503", f"{where}: {what}", fix="download the file again") from None


def _family(config: Mapping[str, Any]) -> str | None:
    """The family of a model's type, None where it is none."""
    given = config.get("model_type")
    name = SAME_FAMILY.get(given, given) if isinstance(given, str) else None
    return name if name in FAMILIES else None


def _unsupported(config: Mapping[str, Any], where: str) -> ModelFilesError:
    """The error for a type that is not read; one that only its own code could run is told so."""
    family, fix = config.get("model_type"), f"use a model of these types: {', '.join(FAMILIES)}"
    code = next((key for key in _RUNS_CODE if config.get(key)), None)
    if code and not isinstance(family, str):
        message = f"{where}: {code!r} asks to run code that came with the model; flexplan runs none"
        return ModelFilesError("FP505", message, fix=fix)
    return ModelFilesError("FP504", f"{where}: model_type is {family!r}, which flexplan does not support", fix=fix)


def _refuse_other_maths(config: Mapping[str, Any], where: str) -> None:
    for key, what in _OTHER_MATHS.items():
        if config.get(key) not in (None, False):
            message = f"{where}: {key!r} asks for {what}, which flexplan does not compute"
            raise ModelFilesError("FP507", message, fix=f"use a model without it; flexplan reads {', '.join(FAMILIES)}")
