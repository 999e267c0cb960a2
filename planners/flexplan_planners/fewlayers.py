"""A quick prediction from a model of few layers: layers are alike, so the others cost what one more of them costs.

Good enough to rank by: within 1 in 1,000 of the whole model where the link, the host or the gpu is busiest,
within a tenth where a little of the weights comes from disk, which the first layers of a pass do not wait for.
"""

from __future__ import annotations

from math import ceil

from flexplan.cost import Rates
from flexplan.policy import Policy
from flexplan.prediction import Schedule, predict
from flexplan.problem import Problem, Workload
from flexplan.simulator import simulate_graph
from flexplan.timeline import Timeline

_FEW, _MORE = 2, 4


def seconds_per_prompt(problem: Problem, policy: Policy, schedule: Schedule) -> float:
    """Simulated: full blocks, their prefill, and the decoding of their middle position."""
    if problem.model.num_layers <= _MORE + 2:
        return problem.workload.gen_len / predict(problem, policy, schedule).tokens_per_s
    few, more = (_block_seconds(_of_layers(problem, n), policy, schedule) for n in (_FEW, _MORE))
    prompts = problem.workload.num_prompts or policy.block_size
    return _extended(problem, few, more) * ceil(prompts / policy.block_size) / prompts


def _extended(problem: Problem, few: float, more: float) -> float:
    return few + (problem.model.num_layers - _FEW) * (more - few) / (_MORE - _FEW)


def _of_layers(problem: Problem, num_layers: int) -> Problem:
    return problem.model_copy(update={"model": problem.model.model_copy(update={"num_layers": num_layers})})


def _block_seconds(problem: Problem, policy: Policy, schedule: Schedule) -> float:
    workload, rates = problem.workload, Rates(problem.hardware)
    lens = workload.prompt_lens or (workload.prompt_len,)
    prompt, decoded = ceil(sum(lens) / len(lens)), workload.gen_len - 1

    def run(prompt_len: int, tokens: int) -> Timeline:
        prompts = min(policy.block_size, workload.num_prompts or policy.block_size)
        part = Workload(prompt_len=prompt_len, gen_len=tokens, num_prompts=prompts)
        return simulate_graph(schedule.build(problem.model_copy(update={"workload": part}), policy), rates, keep=False)

    if decoded <= 2:
        return run(prompt, decoded + 1).end_s
    ends = run(prompt + (decoded - 1) // 2, 3).sweep_end_s
    return run(prompt, 1).end_s + decoded * (ends[2] - ends[1])
