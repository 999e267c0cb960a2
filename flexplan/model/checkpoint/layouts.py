"""The families' layouts by name: which tensors of a checkpoint fill which weights."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping

from flexplan.model.checkpoint.llama import llama_sources
from flexplan.model.checkpoint.mixtral import mixtral_sources
from flexplan.model.checkpoint.opt import opt_sources
from flexplan.model.checkpoint.source import Source
from flexplan.model.shape import ModelShape

_LAYOUTS: Mapping[str, Callable[[ModelShape, Container[str]], Iterator[Source]]] = {
    "opt": opt_sources,
    "llama": llama_sources,
    "mistral": llama_sources,
    "qwen2": llama_sources,
    "qwen3": llama_sources,
    "mixtral": mixtral_sources,
}


def parameter_sources(shape: ModelShape, found: Container[str]) -> tuple[Source, ...]:
    """Which checkpoint tensors fill which weights of ours, given the names that the checkpoint has."""
    return tuple(_LAYOUTS[shape.family](shape, found))
