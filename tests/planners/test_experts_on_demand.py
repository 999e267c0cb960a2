"""Experts on demand, as planned: taken where few are touched, priced by how many that is, and said."""

from __future__ import annotations

import random

import pytest
from flexplan_planners.schedules.zigzag import ZigZag

from flexplan import Problem, solve
from flexplan.cost import experts_touched
from flexplan.model.tensors import expert_of
from flexplan.placement import Placement
from flexplan.policy import full_block
from flexplan.report.tables import policy_lines
from flexplan.testing import policy_with


def asked(prompts: int) -> Problem:
    """A tenth of Qwen3-30B-A3B, of whose 128 experts a token has 8, on a GPU that holds a sixth of that."""
    budgets = {"gpu_mem": "3G", "cpu_mem": "64G", "disk_mem": 0}
    problem = Problem.of(
        "Qwen/Qwen3-30B-A3B", hardware="h100-pcie5", prompt_len=64, gen_len=16, num_prompts=prompts, **budgets
    )
    return problem.with_layers(6)


def test_few_prompts_wait_for_their_routers_and_many_do_not() -> None:
    few, ahead, many = solve(asked(2)), solve(asked(2), experts_on_demand=(False,)), solve(asked(128))
    assert few.policy.experts_on_demand
    assert few.prediction.decode_s < 0.6 * ahead.prediction.decode_s
    assert not many.policy.experts_on_demand
    says = "a decoding pass sends those its router chose, about 16 of 128 where each is as likely as another"
    assert any(line.endswith(says) for line in policy_lines(few))
    assert not any("experts" in line for line in policy_lines(many))


@pytest.mark.parametrize("rows", [1, 4, 24])
def test_the_bytes_of_a_pass_are_the_mean_of_even_routing(rows: int) -> None:
    problem, draw = asked(rows), random.Random(0)
    s, policy = problem.model, policy_with(rows, 1, w=(15.0, 85.0), sep_layer=True, experts_on_demand=True)
    layers = [w for w in Placement.of(s, policy, full_block(problem.workload, policy)).weights if w.expert_spans]
    sent = []
    for _ in range(200):
        touched = {e for _ in range(rows) for e in draw.sample(range(s.num_experts), s.experts_per_token)}
        sent.append(sum(hi - lo for w in layers for e, (lo, hi) in w.expert_spans.items() if e in touched))
    sweep = next(sweep for sweep in ZigZag().build(problem, policy).sweeps() if sweep.i == 5)
    planned = sum(task.work.up_bytes for task in sweep.tasks if task.kind == "load_experts")
    assert planned == pytest.approx(sum(sent) / len(sent), rel=0.03)
    assert experts_touched(s, rows) < s.num_experts


def test_what_every_token_computes_with_is_on_the_gpu_before_any_expert() -> None:
    problem = asked(2)
    for gpu, cpu in ((2.0, 98.0), (15.0, 85.0), (40.0, 30.0), (0.0, 60.0)):
        policy = policy_with(2, 1, w=(gpu, cpu), sep_layer=True, experts_on_demand=True)
        placement = Placement.of(problem.model, policy, full_block(problem.workload, policy))
        pieces = [p for w in placement.weights[:-1] for p in w.pieces]  # the last one is the token table
        late = sum(p.nbytes for p in pieces if p.tier == "gpu" and expert_of(p.tensor.name) is not None)
        waiting = sum(p.nbytes for p in pieces if p.tier != "gpu" and expert_of(p.tensor.name) is None)
        assert min(late, waiting) < 1e-3 * (late + waiting)  # rows are whole
        assert placement.realised()["w"] == pytest.approx((gpu, cpu, 100 - gpu - cpu), abs=0.2)
