"""Opening a model: its shape, its maths and its weights, and what this runtime refuses before it allocates anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from flexplan.errors import PolicyError, UsageError
from flexplan.model import ModelConstants, ModelShape, read_config, read_model
from flexplan.model.places import has_config
from flexplan_runtime.models import family_class
from flexplan_runtime.weights.checkpoint import WeightReader, open_checkpoint
from flexplan_runtime.weights.download import is_model, resolve_model
from flexplan_runtime.weights.dummy import DummyCheckpoint

DUMMY, SKEWED = "_DUMMY_", "_DUMMY_SKEWED_"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_ALIASES = {
    short: name
    for name, shorts in {
        "float32": ("float32", "fp32", "f32", "float", "single"),
        "float16": ("float16", "fp16", "f16", "half"),
        "bfloat16": ("bfloat16", "bf16"),
    }.items()
    for short in shorts
}  # as other tools spell them


class OpenedModel(NamedTuple):
    """A model whose files were found right; it holds none of them open."""

    shape: ModelShape
    math: ModelConstants
    reader: WeightReader


Named = str | Path | tuple[ModelShape, ModelConstants]
Config = Named | OpenedModel


def open_model(config: Config, path: str | Path, seed: int) -> OpenedModel:
    """Shape, maths and weights; ``path`` ``"_DUMMY_"`` gives random weights of the named model's shape,
    ``"_DUMMY_SKEWED_"`` those whose routers want some experts far more often than others.

    What was opened before is not opened, and checked, again.
    """
    if isinstance(config, OpenedModel):
        return config
    if str(path) in (DUMMY, SKEWED):
        shape, math = config if isinstance(config, tuple) else read_model(str(config))
        return OpenedModel(shape, math, DummyCheckpoint(shape, seed, skewed=str(path) == SKEWED))
    directory = _directory(config, Path(path).expanduser())
    shape, math = config if isinstance(config, tuple) else _read(config, directory)
    family_class(shape.family)  # or what its weights are called is not known
    return OpenedModel(shape, math, open_checkpoint(directory, shape))


def _directory(config: Named, path: Path) -> Path:
    """Where the weights are: the path itself, or what lies below it under the model's name."""
    if isinstance(config, tuple) or is_model(Path(config).expanduser()):
        return resolve_model(path if isinstance(config, tuple) else config)
    return resolve_model(config, path)


def _read(config: str | Path, directory: Path) -> tuple[ModelShape, ModelConstants]:
    """The checkpoint's own config where it has one (the reference's layout has none)."""
    return read_config(directory) if has_config(directory) else read_model(str(config))


def dtype_of(asked: str | torch.dtype | None, math: ModelConstants) -> torch.dtype:
    """The dtype asked for, else the checkpoint's."""
    name = str(asked or math.dtype).removeprefix("torch.")
    name = _ALIASES.get(name.lower(), name)
    if name not in DTYPES:
        raise UsageError("FP142", f"dtype {name!r} is not one of {', '.join(DTYPES)}", fix="choose one of these")
    return DTYPES[name]


def refuse_other_model(planned: ModelShape, found: ModelShape) -> None:
    """Raise PolicyError where a plan was made for another model."""
    ours, theirs = _sizes(planned), _sizes(found)
    differing = sorted(key for key in ours if ours[key] != theirs[key])
    if differing:
        key = differing[0]
        raise PolicyError(
            "FP211",
            f"the plan is for {planned.name}, the model is {found.name}: {key} {ours[key]} against {theirs[key]}",
            fix="solve again with --model, or run the policy fields alone",
        )


def _sizes(shape: ModelShape) -> dict[str, Any]:
    """What two models of the same tensors have in common; which floats their scales are, only the files say."""
    found = shape.with_dtype(2).model_dump(exclude={"name"})
    if shape.stored:
        found["stored"] = shape.stored.layout, replace(shape.stored.coding, scale="float32"), shape.stored.kept
    return found
