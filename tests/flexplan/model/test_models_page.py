"""docs/models.md lists every family: the models that are known by name, the largest planned, what was compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexplan import Plan, Problem
from flexplan.model import ModelShape, model_shape, weight_bytes
from flexplan.model.catalog import model_names
from flexplan.model.config import FAMILIES
from flexplan.model.families import names_of
from flexplan.testing import policy_with

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "models.md"
# what tests/runtime runs with their weights
REAL = {"opt": "tiny OPT, embedded", "llama": "SmolLM2-135M", "gemma3_text": "Gemma 3 270M"}
HEAD = (
    "| family | known by name | the largest, planned | its weights, as published | small models compared | policies "
    "| real weights | packed formats |"
)


def table() -> str:
    """A row a family; small models and policies are those that tests/runtime compares with transformers."""
    models, policies = compared()
    rows = [HEAD, "|" + "---|" * 8]
    known = shapes()
    for family in FAMILIES:
        ours = {name: shape for name, shape in known.items() if shape.family == family}
        nbytes, name = max((weight_bytes(shape), name) for name, shape in ours.items())
        assert planned(name).prediction.tokens_per_s > 0
        of_it = f"{len(models[family])} | {sum(policies.get(model, 0) for model in models[family])}"
        size, real = f"{nbytes / 1e9:.1f} GB", REAL.get(family, "")
        fields = (f"`{family}`", len(ours), name, size, of_it, real, formats(known[name]))
        rows.append(f"| {' | '.join(map(str, fields))} |")
    return "\n".join(rows)


def shapes() -> dict[str, ModelShape]:
    """As published, by their names; equal ones are one object, whose bytes are counted once."""
    seen: dict[ModelShape, ModelShape] = {}
    found = {name: model_shape(name).with_dtype(2).model_copy(update={"name": "any"}) for name in model_names()}
    return {name: seen.setdefault(shape, shape) for name, shape in found.items()}


def planned(name: str) -> Plan:
    """All weights in host memory."""
    problem = Problem.of(name, hardware="h200-pcie5", gpu_mem="80G", cpu_mem="4T", prompt_len=64, gen_len=4)
    return Plan.of(problem, policy_with(8, 2, w=(0, 100), cache=(0, 100), sep_layer=False))


def compared() -> tuple[dict[str, list[str]], dict[str, int]]:
    """The small models of each family, and how many policies each runs under."""
    pytest.importorskip("torch")
    import test_families
    import test_grid
    from tiny_models import CONFIGS

    models = {f: [name for name, config in CONFIGS.items() if config.model_type == f] for f in FAMILIES}
    policies = dict.fromkeys(test_families.FAMILIES, len(test_families.CASES)) | test_grid.FAMILIES
    return models, policies | {"opt": test_grid.TINY_OPT_POLICIES}


def formats(shape: ModelShape) -> str:
    """Which of docs/formats.md are read."""
    if "qkv" in names_of(shape.family).transposed:
        return "none"
    return "all" if shape.num_experts else "all but MXFP4"


def test_the_page_lists_the_families() -> None:
    head, _, rest = PAGE.read_text().partition("<!-- families -->\n")
    _, mark, tail = rest.partition("<!-- end of families -->")
    wanted = f"{head}<!-- families -->\n{table()}\n{mark}{tail}"
    if os.environ.get("FLEXPLAN_WRITE_DOCS"):
        PAGE.write_text(wanted)
    assert PAGE.read_text() == wanted, "write it anew: FLEXPLAN_WRITE_DOCS=1 pytest tests/flexplan/model"


def test_what_is_said_of_real_weights_is_run() -> None:
    said = (ROOT / "tests" / "runtime" / "smollm2.py").read_text()
    assert all(name in said for family, name in REAL.items() if family != "opt")
