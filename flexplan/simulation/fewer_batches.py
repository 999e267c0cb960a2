"""A block of many alike micro-batches, known from two blocks of few.

Each micro-batch computes once a layer and brings one chunk of the weights to come.  A block of a part of the
micro-batches whose layers weigh that part of the bytes does the same, micro-batch by micro-batch, only for a shorter
time; beyond what fills the lanes, each further micro-batch adds the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from flexplan.graph import Finished, Sweep, Task, TaskGraph, Work
from flexplan.policy import Policy
from flexplan.problem import Problem, Workload
from flexplan.schedule import Schedule

_MANY = 30  # micro-batches; fewer are simulated as they are
_FEW, _STEP = 6, 6  # a multiple of the slots of every ring, so that passes end where those of the whole block do
_ONCE = frozenset({"read_weight", "stage_weight", "load_weight", "unpack_weight"})  # that bring the weights of a layer


def numbers_of_few(problem: Problem, policy: Policy) -> tuple[int, int] | None:
    """Two numbers of micro-batches that stand for a block of one problem; None where it is to be taken as it is."""
    n, lens = policy.num_gpu_batches, problem.workload.prompt_lens
    if n < _MANY or len(lens) != policy.block_size or min(lens) != max(lens):
        return None
    few = _FEW + n % _STEP
    return few, few + _STEP


def of_few(problem: Problem, policy: Policy, schedule: Schedule, n: int) -> tuple[Problem, Policy, Schedule]:
    """The block of n of its micro-batches, and a schedule whose layers weigh as much less."""
    lens = problem.workload.prompt_lens[: n * policy.gpu_batch_size]
    part = problem.model_copy(update={"workload": Workload(prompt_lens=lens, gen_len=problem.workload.gen_len)})
    return part, replace(policy, num_gpu_batches=n), Thinned(schedule, n / policy.num_gpu_batches)


@dataclass(frozen=True)
class Thinned:
    """A schedule whose weights are a ``part`` of the bytes; all else is as it was."""

    schedule: Schedule
    part: float

    def build(self, problem: Problem, policy: Policy) -> TaskGraph:
        """The graph of the schedule, its weights thinner."""
        graph = self.schedule.build(problem, policy)

        def make(finished: Finished) -> Iterator[Sweep]:
            for sweep in graph.sweeps(finished):
                yield Sweep(sweep.i, sweep.ks, self._thinned(sweep), pattern=sweep.pattern)

        return replace(graph, make=make)

    def _thinned(self, sweep: Sweep) -> Iterator[Task]:
        known: dict[Work, Work] = {}  # chunks of a layer, and layers, are alike
        for task in sweep.tasks:
            if task.kind in _ONCE:
                if task.work not in known:
                    known[task.work] = Work(*(self.part * amount for amount in task.work))
                yield task._replace(work=known[task.work])
            else:
                yield task
