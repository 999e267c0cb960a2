"""The program's rows against what they stand for: the tasks of the graph, and the bytes of the placement."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from flexplan_planners.lp import FlexplanCosts
from flexplan_planners.lp.bytes import Memory
from flexplan_planners.lp.rows import Phase
from flexplan_planners.lp.seconds import PassWork
from flexplan_planners.lp.switches import Switches
from flexplan_planners.schedules.zigzag import ZigZag
from problems import SHAPES, problem, shape

from flexplan.cost import Rates
from flexplan.graph import TIERS, Sweep
from flexplan.placement import Layout, Placement
from flexplan.policy import Policy, full_block
from flexplan.problem import Problem
from flexplan.testing import policy_with

WINDOWED = problem(256, 256, 256, model=shape(name="windowed", windows=(7, 0, 25, 0)), prompt_len=24, gen_len=3)
LOSSY = {"compress_weight": True, "compress_cache": True, "attn_sparsity": 0.3}
PROBLEMS = [
    *(problem(256, 256, 256, model=model, prompt_len=24, gen_len=3) for model in SHAPES),
    Problem.of("facebook/opt-1.3b", prompt_len=64, gen_len=3),
    WINDOWED,
]
COARSE = {"disk_read", "h2d_weights"}  # groups of 64 rows leave so small a model without some of these tasks
EXACT = {"gpu", "cpu", "d2h", "h2d_small", "h2d_cache"}  # the disk pads, and small pieces of weights are not cut


def policies(asked: Problem) -> Iterator[tuple[Switches, Policy]]:
    """Two random policies for every setting of the switches, with so many grains that every share gets some."""
    plain, packed = random.Random(0), random.Random(0)
    costs = FlexplanCosts(asked, pin_weight=(True, False), lossy=LOSSY, experts_on_demand=(False, True))
    for switches in costs.settings:
        is_packed = switches.compress_weight or switches.compress_cache or switches.attn_sparsity < 1
        dice = packed if is_packed else plain
        for size in (32,) if is_packed else (32, 40):
            percents = {}
            for what in ("w", "cache", "act"):
                parts = [0 if f"{what}_{t}" in switches.absent else dice.randint(1, 9) for t in ("gpu", "cpu", "disk")]
                gpu = 100 * parts[0] // sum(parts)
                cpu = 100 - gpu if not parts[2] else 100 * parts[1] // sum(parts)
                percents |= {f"{what}_gpu_percent": float(gpu), f"{what}_cpu_percent": float(cpu)}
            batches = 1 if switches.experts_on_demand else dice.choice([1, 2, 5])
            yield switches, Policy(size, batches, **percents, **switches.fields)


def realised(placement: Placement) -> dict[str, float]:
    found = placement.realised()
    return {f"{what}_{t}": found[what][n] / 100 for what in found for n, t in enumerate(("gpu", "cpu", "disk"))}


def seconds_by_lane(sweep: Sweep, rates: Rates) -> dict[str, float]:
    found: dict[str, float] = {}
    for task in sweep.tasks:
        price = rates.price(task.work, task.lane)
        found[task.lane] = found.get(task.lane, 0.0) + price.solo_s
        for resource, seconds in price.demands:
            if resource != task.lane:
                found[resource] = found.get(resource, 0.0) + seconds
    return found


@pytest.mark.parametrize("asked", [*PROBLEMS[:3], WINDOWED], ids=lambda p: p.model.name)
def test_a_row_of_time_is_the_sum_of_its_lanes_tasks(asked: Problem) -> None:
    rates = Rates(asked.hardware)
    for switches, policy in list(policies(asked))[:: 5 if asked is WINDOWED else 1]:
        placement = Placement.of(asked.model, policy, full_block(asked.workload, policy))
        packed = policy.compress_weight or policy.compress_cache
        passes = [
            Phase(
                "", 1.0, PassWork(asked, rates, policy.gpu_batch_size, i, asked.workload.prompt_len).works(switches)
            ).rows
            for i in (0, 1)
        ]
        full = asked.model_copy(
            update={"workload": asked.workload.model_copy(update={"num_prompts": policy.block_size})}
        )
        for rows, sweep in zip(passes, ZigZag().build(full, policy).sweeps(), strict=False):
            values = {name: row.value(realised(placement), policy.num_gpu_batches) for name, row in rows.items()}
            values["gpu"] = max(seconds for name, seconds in values.items() if name.startswith("gpu"))
            for lane, seconds in seconds_by_lane(sweep, rates).items():
                if packed and lane in COARSE:
                    continue
                assert values.get(lane, 0.0) <= seconds * 1.03, (lane, policy)
                if lane in EXACT and not switches.experts_on_demand:  # routers that are asked first are left out
                    assert values[lane] == pytest.approx(seconds, rel=1e-3), (lane, policy)


@pytest.mark.parametrize("asked", PROBLEMS, ids=lambda p: p.model.name)
def test_a_row_of_bytes_is_an_upper_bound_of_the_placement(asked: Problem) -> None:
    for switches, policy in policies(asked):
        rows = Memory(asked, policy.gpu_batch_size, switches).rows(switches)
        shares = {f"{w}_{t}": s for w in ("w", "cache", "act") for t, s in zip(TIERS, policy.shares(w), strict=True)}
        need = Layout.of(Placement.of(asked.model, policy, full_block(asked.workload, policy))).tier_bytes()
        for tier, row in rows.items():
            assert row.value(shares, policy.num_gpu_batches) >= need[tier], (tier, policy)


def test_on_a_large_model_the_bound_is_tight() -> None:
    asked = Problem.of("facebook/opt-30b", gpu_mem="16G", cpu_mem="200G")
    (switches,) = (
        s
        for s in FlexplanCosts(asked).settings
        if (s.sep_layer, s.weights_stay, s.cache, s.act_stays, s.disk) == (False, False, "host", True, "none")
    )
    policy = policy_with(24, 3, w=(15.0, 85.0), cache=(0.0, 100.0), **switches.fields)
    need = Layout.of(Placement.of(asked.model, policy, full_block(asked.workload, policy))).tier_bytes()
    shares = {f"{w}_{t}": s for w in ("w", "cache", "act") for t, s in zip(TIERS, policy.shares(w), strict=True)}
    for tier, row in Memory(asked, 24, switches).rows(switches).items():
        assert row.value(shares, 3) <= need[tier] * 1.005
