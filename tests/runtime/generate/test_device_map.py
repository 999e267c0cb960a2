"""Device maps of plans, taken by accelerate: a model that is spread out gives the logits that it gives in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("accelerate")

import torch
from accelerate import dispatch_model
from accelerate.utils import check_device_map
from tiny_models import CONFIGS, reference_model

from flexplan.errors import UsageError
from flexplan.export.device_map import device_map
from flexplan.export.module_names import EXPORTED
from flexplan.model import read_config
from flexplan.plan import Plan
from flexplan.problem import Problem
from flexplan.testing import policy_with

SPREADS = [(100.0, 0.0), (40.0, 60.0), (30.0, 30.0), (0.0, 0.0)]
SHAPES = {name: read_config(config.to_dict(), name)[0] for name, config in CONFIGS.items()}
each_model = pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.family in EXPORTED])


def plan_for(name: str, shares: tuple[float, float]) -> Plan:
    problem = Problem.of(SHAPES[name], hardware="cpu-host", prompt_len=8, gen_len=2)
    return Plan.of(problem, policy_with(2, 1, w=shares))


@each_model
@pytest.mark.parametrize("shares", SPREADS)
def test_accelerate_dispatches_the_map(name: str, shares: tuple[float, float], tmp_path: Path) -> None:
    """Without a GPU: what the plan has there is in memory, what it has on disk is read when its turn comes."""
    model, ids = reference_model(CONFIGS[name]), torch.arange(2, 18).reshape(2, 8)
    placed = device_map(plan_for(name, shares), gpu="cpu")
    with torch.no_grad():
        wanted = model(ids).logits
        spread = dispatch_model(model, placed, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
        assert torch.equal(spread(ids).logits, wanted)
    assert bool(list(tmp_path.glob("*.dat"))) == ("disk" in placed.values())


@each_model
def test_the_map_for_a_gpu_leaves_no_parameter_and_no_buffer_out(name: str) -> None:
    check_device_map(reference_model(CONFIGS[name]), device_map(plan_for(name, (40, 60))))


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.family not in EXPORTED])
def test_a_family_whose_modules_are_not_known_is_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"FP133.*{SHAPES[name].family}"):
        device_map(plan_for(name, (40.0, 60.0)))
