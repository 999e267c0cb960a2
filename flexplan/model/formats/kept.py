"""Which matrices a `quantization_config` leaves as plain floats, by the modules that it names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flexplan.errors import ModelFilesError
from flexplan.limits import shown
from flexplan.model.checkpoint.layouts import parameter_sources
from flexplan.model.coding import StoredFormat, every_expert
from flexplan.model.formats.given import UNPACKED
from flexplan.model.shape import ModelShape
from flexplan.model.tensors import weight_tensors

# a config is not to bring a pattern that never ends: texts, any text, any of a few characters
_PATTERN = re.compile(r"(?:[\w-]|\\?\.\*?|\\d\+?|\[[\w-]+\]|[$^])+")
_MOST_REPEATS = 8


def with_kept(shape: ModelShape, stored: StoredFormat, patterns: Sequence[str], where: str) -> ModelShape:
    """The shape with its format, and with the matrices that the named modules keep in plain floats."""
    coded = shape.model_copy(update={"stored": stored})
    matches = [_matcher(p, where) for p in patterns]
    parts = _last_parts(coded)
    wanted = [m for p, m in zip(patterns, matches, strict=True) if p.startswith("re:") or _may_name(p, parts)]
    kept = _kept(coded, wanted, where) if wanted else ()
    return shape.model_copy(update={"stored": stored.model_copy(update={"kept": kept})})


def _kept(shape: ModelShape, wanted: Sequence[re.Pattern[str]], where: str) -> tuple[str, ...]:
    """Names of matrices, of all layers or of one; each is kept whole or not at all."""
    coded = {(t.layer, t.name) for t in weight_tensors(shape) if t.packing}
    keeps: dict[tuple[int, str], set[bool]] = {}
    for source in parameter_sources(shape, ()):
        if (source.layer, source.name) in coded:
            module = source.hf_name.removesuffix(".weight")
            found = any(p.match(module) for p in wanted)
            keeps.setdefault((source.layer, every_expert(source.name)), set()).add(found)
    mixed = next((f"{name} of layer {layer}" for (layer, name), both in keeps.items() if len(both) > 1), None)
    if mixed:
        message = f"{where}: quantization_config keeps a part of {mixed} in plain floats; here it is stored as one"
        raise ModelFilesError("FP511", message, fix=UNPACKED)
    kept = [at for at, found in keeps.items() if True in found]
    names = dict.fromkeys(name for _, name in kept)
    everywhere = [n for n in names if all(True in found for (_, name), found in keeps.items() if name == n)]
    return (*everywhere, *(f"{layer}.{name}" for layer, name in kept if name not in everywhere))


def _matcher(pattern: str, where: str) -> re.Pattern[str]:
    """What a pattern names: modules by their whole names or ends, up to a dot; with ``re:`` as it is written."""
    expression = pattern.removeprefix("re:")
    if pattern.startswith("re:"):
        if not _PATTERN.fullmatch(expression) or expression.count("*") + expression.count("+") > _MOST_REPEATS:
            message = f"{where}: quantization_config names modules by {shown(pattern)}, which is not read"
            raise ModelFilesError("FP514", message, fix="name them with letters, dots and .*")
        return re.compile(expression)
    parts = (r"[^.]+" if part == "*" else re.escape(part) for part in expression.split("."))
    return re.compile(rf"(?:.*\.)?{'[.]'.join(parts)}(?:\..*)?$")


def _last_parts(shape: ModelShape) -> set[str]:
    """All parts of names of coded matrices, numbers apart."""
    coded = {(t.layer, t.name) for t in weight_tensors(shape) if t.packing}
    sources = (s for s in parameter_sources(shape, ()) if (s.layer, s.name) in coded)
    return {part for source in sources for part in source.hf_name.removesuffix(".weight").split(".")}


def _may_name(pattern: str, parts: set[str]) -> bool:
    last = pattern.rpartition(".")[2]
    return last == "*" or last in parts
