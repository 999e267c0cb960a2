"""flexplan's own cost model: the programs of a problem, one a batch size and setting of the switches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from math import ceil
from typing import Any

from flexplan.cost import Rates
from flexplan.cost import work as cost
from flexplan.problem import Problem
from flexplan.problem.ragged import padded_mean
from flexplan_planners.lp.bytes import Memory
from flexplan_planners.lp.rows import Phase, Program
from flexplan_planners.lp.seconds import PassWork
from flexplan_planners.lp.switches import Switches, every_setting

MOST_BATCHES = 128  # as in the paper: larger micro-batches share a pass over the weights as well, with fewer tasks
_WORTH_WAITING = 0.95  # of a layer's experts: where more are wanted, all are sent sooner ahead
_BATCH_SIZES = [1, *(m << e for e in range(13) for m in (2, 3))]  # 1, 2, 3, 4, 6, 8, 12, 16, 24, ...


class FlexplanCosts:
    """The programs of a problem under `Rates` and `Placement`."""

    def __init__(
        self,
        problem: Problem,
        *,
        host_attention: Sequence[bool] = (True, False),
        sep_layer: Sequence[bool] = (False, True),
        pin_weight: Sequence[bool] = (True,),
        lossy: Mapping[str, Any] | None = None,
        most_batches: int = MOST_BATCHES,
        experts_on_demand: Sequence[bool] = (False,),
    ) -> None:
        self.problem = problem
        self.rates = Rates(problem.hardware)
        self.settings = list(every_setting(problem, host_attention, sep_layer, pin_weight, lossy, experts_on_demand))
        self.most_batches = most_batches
        self.budgets = {tier: float(nbytes) for tier, nbytes in problem.budgets().items()}
        self._sizes: dict[int, _Size] = {}

    def within(self, budgets: Mapping[str, float]) -> FlexplanCosts:
        """The same programs under other budgets, as those of a policy whose bytes the rows count too high."""
        other = copy(self)
        other.budgets = dict(budgets)
        other._sizes = {rows: size.within(other.budgets) for rows, size in self._sizes.items()}
        return other

    def batch_sizes(self) -> Iterable[int]:
        """1, 2, 3, 4, 6, 8, 12, ... and the number of prompts, which bounds them."""
        prompts = self.problem.workload.num_prompts or _BATCH_SIZES[-1]
        return sorted({*(size for size in _BATCH_SIZES if size < prompts), min(prompts, _BATCH_SIZES[-1])})

    def programs(self, gpu_batch_size: int) -> list[Program]:
        """One for every setting of the switches that has room."""
        return self._written(gpu_batch_size, range(len(self.settings)))

    def alike(self, gpu_batch_size: int, like: Program) -> list[Program]:
        """Those of the very setting of another program, whatever its size."""
        same = (like.absent, like.switches)
        return self._written(gpu_batch_size, [n for n, s in enumerate(self.settings) if (s.absent, s.fields) == same])

    def _written(self, gpu_batch_size: int, settings: Iterable[int]) -> list[Program]:
        """Each is written when it is first asked for."""
        if gpu_batch_size not in self._sizes:
            self._sizes[gpu_batch_size] = _Size(self, gpu_batch_size)
        found = (self._sizes[gpu_batch_size].program(n) for n in settings)
        return [program for program in found if program is not None]


class _Size:
    """The programs of one batch size, of which most share most of their rows."""

    def __init__(self, costs: FlexplanCosts, gpu_batch_size: int) -> None:
        self.problem = problem = costs.problem
        self.gpu_batch_size = gpu_batch_size
        self.budgets = costs.budgets
        prompts = problem.workload.num_prompts
        self.most_batches = min(costs.most_batches, ceil(prompts / gpu_batch_size)) if prompts else costs.most_batches
        self.passes = list(_passes(problem, costs.rates, gpu_batch_size, costs.most_batches))
        self._memories = dict[tuple[object, ...], Memory]()
        self._settings = costs.settings
        self._programs = dict[int, Program | None]()

    def within(self, budgets: Mapping[str, float]) -> _Size:
        """The same under other budgets."""
        other = copy(self)
        other.budgets, other._programs = dict(budgets), {}
        return other

    def program(self, n: int) -> Program | None:
        """That of the n-th setting of the switches, if it has room."""
        if n not in self._programs:
            self._programs[n] = self._write(self._settings[n])
        return self._programs[n]

    def _write(self, s: Switches) -> Program | None:
        if s.experts_on_demand and cost.touched_share(s.shape, self.gpu_batch_size) > _WORTH_WAITING:
            return None
        sizes = (s.sep_layer, s.experts_on_demand, s.compress_weight, s.compress_cache, s.attn_sparsity)
        if sizes not in self._memories:
            self._memories[sizes] = Memory(self.problem, self.gpu_batch_size, s)
        tiers = self._memories[sizes].rows(s)
        if any(row.least(s.absent) > self.budgets[tier] for tier, row in tiers.items()):
            return None
        return Program(
            self.gpu_batch_size,
            tuple(Phase(name, count, work.works(s)) for name, count, work in self.passes),
            tiers,
            self.budgets,
            1 if s.experts_on_demand else self.most_batches,
            s.absent,
            s.fields,
            self.problem.objective.max_latency_s,
        )


def _passes(
    problem: Problem, rates: Rates, gpu_batch_size: int, most_batches: int
) -> Iterator[tuple[str, float, PassWork]]:
    """The prefill, and the decoding at its first, middle and last position, weighted by Simpson's rule."""
    workload = problem.workload
    batches = min(most_batches, ceil((workload.num_prompts or gpu_batch_size) / gpu_batch_size))
    prompt, last = ceil(padded_mean(workload, gpu_batch_size, batches)), workload.gen_len - 1
    yield "prefill", 1.0, PassWork(problem, rates, gpu_batch_size, 0, prompt)
    points = {1: 1.0} if last == 1 else {1: last / 6, (1 + last) // 2: last * 4 / 6, last: last / 6}
    if last == 2:
        points = {1: 1.0, 2: 1.0}
    for i, count in points.items() if last else ():
        yield f"decode{i}", count, PassWork(problem, rates, gpu_batch_size, i, prompt)
