"""A Hugging Face ``config.json`` read as data: sizes for the planner, constants for the runtime's mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flexplan.configkeys import FAMILIES, Fields
from flexplan.errors import ModelFilesError
from flexplan.limits import shown
from flexplan.modelmath import ModelMath
from flexplan.optconfig import read_opt
from flexplan.rotaryconfig import read_rotary
from flexplan.shapes import ModelShape
from flexplan.strictjson import parse_json

_RUNS_CODE = ("auto_map", "custom_pipelines")


def read_config(source: str | Path | Mapping[str, Any], name: str | None = None) -> tuple[ModelShape, ModelMath]:
    """Sizes and constants of a model, from its directory, its ``config.json`` or that file's content.

    In a directory, the end and pad ids of ``generation_config.json`` come before those of ``config.json``,
    as they do in transformers.  A missing dtype counts as float16.
    """
    if isinstance(source, Mapping):
        return _parse(source, name or str(source.get("model_type", "model")), "config.json")
    path = Path(source)
    directory = path if path.is_dir() else path.parent
    config = _read_object(directory / "config.json" if path.is_dir() else path)
    generation = directory / "generation_config.json"
    if generation.is_file():
        ids = _read_object(generation)
        config = config | {k: ids[k] for k in ("eos_token_id", "pad_token_id") if ids.get(k) is not None}
    return _parse(config, name or directory.resolve().name, str(path))


def shape_from_config(source: str | Path | Mapping[str, Any], name: str | None = None) -> ModelShape:
    """Only the sizes of `read_config`."""
    return read_config(source, name)[0]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise ModelFilesError("FP501", f"{path} cannot be read: {reason}", fix="point at a model directory") from error
    except ValueError as error:
        raise ModelFilesError("FP501", f"{path} is not JSON: {error}", fix="download the file again") from error
    if not isinstance(found, dict):
        raise ModelFilesError("FP501", f"{path} holds a {type(found).__name__}, not an object", fix="download it again")
    return found


def _parse(config: Mapping[str, Any], name: str, where: str) -> tuple[ModelShape, ModelMath]:
    _refuse_code(config, where)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelFilesError("FP504", f"{where}: model_type is {family!r}", fix=f"use a model of these types: {known}")
    fields = Fields(config, family, where)
    try:
        return read_opt(fields, name) if family == "opt" else read_rotary(fields, name)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, first['loc'])) or 'sizes'} {shown(first['input'])}: {first['msg']}"
        raise ModelFilesError("FP503", f"{where}: {what}", fix="download the file again") from None


def _refuse_code(config: Mapping[str, Any], where: str) -> None:
    for key in _RUNS_CODE:
        if config.get(key):
            raise ModelFilesError(
                "FP505",
                f"{where}: {key!r} asks to run code that came with the model; flexplan runs none",
                fix="use a checkpoint of a model type that transformers has itself",
            )
    if config.get("quantization_config") is not None:
        raise ModelFilesError(
            "FP504",
            f"{where}: 'quantization_config' says that the weights are packed already",
            fix="use the checkpoint in float16 or bfloat16; flexplan compresses weights itself",
        )
