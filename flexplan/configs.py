"""A Hugging Face ``config.json`` read as data: sizes for the planner, constants for the runtime's mathematics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexplan.configkeys import FAMILIES, Fields
from flexplan.errors import ModelFilesError
from flexplan.modelmath import ModelMath
from flexplan.optconfig import read_opt
from flexplan.rotaryconfig import read_rotary
from flexplan.shapes import ModelShape
from flexplan.strictjson import parse_json
from flexplan.tokenrules import read_ids, read_rules

_RUNS_CODE = ("auto_map", "custom_pipelines")


def read_config(source: str | Path | Mapping[str, Any], name: str | None = None) -> tuple[ModelShape, ModelMath]:
    """Sizes and constants of a model, from its directory, its ``config.json`` or that file's content.

    As in transformers, a directory's generation config is `generation_config.json`, end and pad ids included, and
    only where there is none the same keys of `config.json`.  A missing dtype counts as float16.
    """
    if isinstance(source, Mapping):
        shape, math = _parse(source, name or str(source.get("model_type", "model")), "config.json")
        return shape, math.model_copy(update={"rules": read_rules(source, shape.vocab_size, "config.json")})
    path = Path(source)
    directory = path if path.is_dir() else path.parent
    where = directory / "config.json" if path.is_dir() else path
    config = _read_object(where)
    shape, math = _parse(config, name or directory.resolve().name, str(path))
    beside = directory / "generation_config.json"
    if beside.is_file():
        where, config = beside, _read_object(beside)
    return shape, math.model_copy(update=_generation(config, shape.vocab_size, str(where)))


def _generation(config: Mapping[str, Any], vocab_size: int, where: str) -> dict[str, Any]:
    """What `ModelMath` takes from a generation config."""
    return {
        "eos_token_ids": read_ids(config.get("eos_token_id"), "eos_token_id", where),
        "pad_token_id": next(iter(read_ids(config.get("pad_token_id"), "pad_token_id", where)), None),
        "rules": read_rules(config, vocab_size, where),
    }


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
    return read_opt(fields, name) if family == "opt" else read_rotary(fields, name)


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
