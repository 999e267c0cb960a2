"""How FlexLLMGen looks for a policy, rewritten from its description: the second half of the oracle.

Micro-batches of 1, 2, 3, 4, 8, 16, ... sequences until one does not fit; for each the largest number of
micro-batches that fits, by doubling and bisection; then every number from 1 on, until the throughput drops once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from flexplan_planners.lp import Program, Solution, solve_program
from reference_model import ReferenceModel


@dataclass(frozen=True)
class Found:
    """The reference's answer, and the linear programs it took."""

    gpu_batch_size: int
    num_gpu_batches: int
    seconds_per_prompt: float
    num_programs: int


class ReferenceSearch:
    """Its enumeration over a `ReferenceModel`, each program solved by our solver."""

    def __init__(self, model: ReferenceModel) -> None:
        self.model = model
        self.num_programs = 0

    def run(self) -> Found:
        """The best of all that it tries."""
        found = list(chain.from_iterable(self._scan(program) for program in self._fitting()))
        seconds, size, batches = min(found)
        return Found(size, batches, seconds, self.num_programs)

    def _fitting(self) -> Iterator[Program]:
        for size in chain((1, 2, 3), (1 << e for e in range(2, 20))):
            (program,) = self.model.programs(size)
            if self._solve(program, 1) is None:
                return
            yield program

    def _scan(self, program: Program) -> Iterator[tuple[float, int, int]]:
        """Seconds a prompt of each number of micro-batches, up to the first drop."""
        best = float("inf")
        for n in range(1, self._most(program) + 1):
            solution = self._solve(program, n)
            if solution is None:
                return
            seconds = solution.seconds / program.gpu_batch_size
            if seconds > best:
                return
            best = seconds
            yield seconds, program.gpu_batch_size, n

    def _most(self, program: Program) -> int:
        fits, too_many = 1, 2
        while self._solve(program, too_many) is not None:
            fits, too_many = too_many, 2 * too_many
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if self._solve(program, middle) is None:
                too_many = middle
            else:
                fits = middle
        return fits

    def _solve(self, program: Program, n: int) -> Solution | None:
        self.num_programs += 1
        return solve_program(program, n)
