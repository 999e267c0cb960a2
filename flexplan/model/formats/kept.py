"""Which matrices a `quantization_config` leaves as plain floats, by the modules that it names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from flexplan.errors import ModelFilesError
from flexplan.limits import shown
from flexplan.model.coding import StoredFormat, every_expert
from flexplan.model.formats.given import UNPACKED
from flexplan.model.shape import ModelShape
from flexplan.model.tensors import weight_tensors

if TYPE_CHECKING:
    from flexplan.model.checkpoint import Source

# a config is not to bring a pattern that never ends: texts, any text, any of a few characters
_PATTERN = re.compile(r"(?:[\w-]|\\?\.\*?|\\d\+?|\[[\w-]+\]|[$^])+")
_MOST_REPEATS = 8
_MOST_PATTERNS = 64  # that are no plain names: each is held against every module


def with_kept(shape: ModelShape, stored: StoredFormat, patterns: Sequence[str], where: str) -> ModelShape:
    """The shape with its format, and with the matrices that the named modules keep in plain floats."""
    from flexplan.model.checkpoint import parameter_sources  # few models are quantised

    coded = shape.model_copy(update={"stored": stored})
    names = {(t.layer, t.name) for t in weight_tensors(coded) if t.packing}
    sources = [s for s in parameter_sources(coded, ()) if (s.layer, s.name) in names]
    named = _Named(patterns, {part for source in sources for part in _module(source).split(".")}, where)
    kept = _kept(sources, named, where) if named else ()
    return shape.model_copy(update={"stored": stored.model_copy(update={"kept": kept})})


def _kept(sources: Iterable[Source], named: _Named, where: str) -> tuple[str, ...]:
    """Names of matrices, of all layers or of one; each is kept whole or not at all."""
    keeps: dict[tuple[int, str], set[bool]] = {}
    for source in sources:
        keeps.setdefault((source.layer, every_expert(source.name)), set()).add(_module(source) in named)
    mixed = next((f"{name} of layer {layer}" for (layer, name), both in keeps.items() if len(both) > 1), None)
    if mixed:
        message = f"{where}: quantization_config keeps a part of {mixed} in plain floats; here it is stored as one"
        raise ModelFilesError("FP511", message, fix=UNPACKED)
    kept = [at for at, found in keeps.items() if True in found]
    elsewhere = {name for (_, name), found in keeps.items() if True not in found}
    everywhere = dict.fromkeys(name for _, name in kept if name not in elsewhere)
    return (*everywhere, *(f"{layer}.{name}" for layer, name in kept if name in elsewhere))


def _module(source: Source) -> str:
    return source.hf_name.removesuffix(".weight")


class _Named:
    """Modules by whole parts of their names, anywhere in them; with ``re:`` as it is written; * is any part.

    What ends in a part that no matrix has is left out: of a model's hundreds of norms and routers nothing is asked.
    """

    def __init__(self, patterns: Sequence[str], parts: set[str], where: str) -> None:
        matters = [p for p in patterns if p.startswith("re:") or p.rpartition(".")[2] in {*parts, "*"}]
        self.names = {p for p in matters if not p.startswith("re:") and "*" not in p}
        others = [p for p in dict.fromkeys(matters) if p not in self.names]
        if len(others) > _MOST_PATTERNS:
            message = f"{where}: quantization_config names modules by {len(others)} patterns, allowed {_MOST_PATTERNS}"
            raise ModelFilesError("FP515", message, fix="name the modules themselves")
        self.patterns = [_expression(p, where) for p in others]

    def __bool__(self) -> bool:
        return bool(self.names or self.patterns)

    def __contains__(self, module: str) -> bool:
        parts = module.split(".")
        spans = combinations(range(len(parts) + 1), 2)
        return any(".".join(parts[a:b]) in self.names for a, b in spans) or any(p.match(module) for p in self.patterns)


def _expression(pattern: str, where: str) -> re.Pattern[str]:
    expression = pattern.removeprefix("re:")
    if expression == pattern:
        parts = (r"[^.]+" if part == "*" else re.escape(part) for part in expression.split("."))
        return re.compile(rf"(?:.*\.)?{'[.]'.join(parts)}(?:\..*)?$")
    if not _PATTERN.fullmatch(expression) or expression.count("*") + expression.count("+") > _MOST_REPEATS:
        message = f"{where}: quantization_config names modules by {shown(pattern)}, which is not read"
        raise ModelFilesError("FP514", message, fix="name them with letters, dots and .*")
    return re.compile(expression)
