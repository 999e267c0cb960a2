"""The linear program against every policy of a 10 % grid, one block shape an instance, judged by one placement.

``FLEXPLAN_BRUTE_FORCE`` is the number of instances: 300 unless it says otherwise.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

import pytest
from brute_force import TIERS, Grid, placement_of, seconds_of
from flexplan_planners.fit import Fitting
from flexplan_planners.lp import FlexplanCosts, Program
from problems import shape

from flexplan.graph import check_memory
from flexplan.hardware.machine import preset_names
from flexplan.placement import Layout
from flexplan.plugins import SCHEDULES, make
from flexplan.problem import Problem
from flexplan.units import MiB

INSTANCES = int(os.environ.get("FLEXPLAN_BRUTE_FORCE", "300"))
CHUNK = 25
STOPS = 5e-4  # of the seconds: less is not worth another placement


@dataclass(frozen=True)
class Instance:
    """A problem, a block shape, and the settings of the switches that are allowed."""

    problem: Problem
    gpu_batch_size: int
    num_gpu_batches: int
    host_attention: tuple[bool, ...]
    sep_layer: bool

    @property
    def programs(self) -> list[Program]:
        """One for every setting, those too that have no room: room is for the placement to say."""
        plenty = {t: 1 << 50 for t in TIERS if getattr(self.problem.hardware, f"{t}_bytes")}
        roomy = self.problem.with_budgets(**plenty)
        settings = {"host_attention": self.host_attention, "sep_layer": (self.sep_layer,)}
        return FlexplanCosts(roomy, **settings).programs(self.gpu_batch_size)


def instance(seed: int) -> Instance:
    """A random one: a small model on a machine whose rates and budgets are drawn."""
    draw = random.Random(seed)
    rows, batches = draw.choice((1, 2, 3, 4, 8)), draw.choice((1, 1, 2, 3, 4))
    given = drawn_problem(draw)
    return Instance(given, rows, batches, draw.choice(((True,), (False,), (True, False))), draw.random() < 0.3)


def drawn_problem(draw: random.Random) -> Problem:
    heads = draw.choice((4, 8))
    kv_heads = draw.choice((heads, heads, 1))
    gated, experts = draw.random() < 0.4, draw.choice((0, 0, 0, 4))
    changes: dict[str, Any] = {
        "name": "drawn",
        "num_layers": draw.randint(1, 4),
        "hidden_size": 64 * heads,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "ffn_size": draw.choice((1024, 2048)),
        "gated": gated or bool(experts),
        "num_experts": experts,
        "experts_per_token": 2 if experts else 0,
        "vocab_size": draw.choice((1024, 4096)),
        "embed_size": 64 * heads,
        "tied_embeddings": draw.random() < 0.5,
    }
    disk = draw.choice((0, 0, 0, 0, 0, 0, 0, 200)) * MiB
    asked = Problem.of(
        shape(**changes),
        hardware=draw.choice(preset_names()),
        gpu_mem=int(draw.uniform(6, 60) * MiB),
        cpu_mem=int(draw.uniform(6, 100) * MiB),
        disk_mem=disk,
        prompt_len=draw.randint(8, 160),
        gen_len=draw.randint(1, 32),
    )
    rates = {
        name: value * draw.lognormvariate(0, 1)
        for name, value in asked.hardware.model_dump().items()
        if name.endswith("_s") and value is not None
    }
    return asked.model_copy(update={"hardware": asked.hardware.model_copy(update=rates)})


def judge(seed: int) -> str:
    """What an instance was: ``infeasible``, ``lp only`` (finer than the grid) or ``both``; asserts the three laws."""
    given = instance(seed)
    problem, n = given.problem, given.num_gpu_batches
    programs, zigzag = given.programs, make(SCHEDULES, "zigzag")
    ours, grid = Fitting(problem, zigzag, n).fastest(programs), Grid(problem, programs, n).best()
    if grid is not None:
        placed = placement_of(problem, grid.policy)
        assert all(b <= problem.budgets()[t] for t, b in Layout.of(placed).tier_bytes().items()), "the sums are wrong"
        assert grid.seconds == pytest.approx(seconds_of(programs, grid.policy, placed), rel=1e-9)
        assert ours is not None, f"instance {seed}: infeasible, but {grid.policy} fits"
    if ours is None:
        return "infeasible"
    placed = placement_of(problem, ours)
    workspace = Layout.of(placed).arena_bytes["gpu.workspace"]
    check_memory(zigzag.build(problem, ours), problem.budgets(), {"gpu": workspace})
    if grid is None:
        return "lp only"
    seconds = seconds_of(programs, ours, placed)
    assert seconds <= grid.seconds * (1 + STOPS), f"instance {seed}: {ours} against {grid.policy}"
    return "both"


@pytest.mark.parametrize("first", range(0, INSTANCES, CHUNK))
def test_never_infeasible_never_slower_never_over_budget(first: int) -> None:
    kinds = [judge(seed) for seed in range(first, min(first + CHUNK, INSTANCES))]
    assert kinds.count("both") > len(kinds) / 3, "instances that test something"


@pytest.mark.parametrize("seed", [1498, 1941, 2560, 2763])
def test_where_rounding_costs_most(seed: int) -> None:
    """Grains of the cache, and rows of weights, are large."""
    assert judge(seed) == "both"
