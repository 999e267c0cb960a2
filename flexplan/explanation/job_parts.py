"""What makes a rolling job quick, part by part: the same list of requests on paper without each of them.

Memory is that of the plan each time: seats that are all as large as the largest are fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from flexplan.graph import never
from flexplan.plan import Plan
from flexplan.policy import Block, Policy, rolling_block
from flexplan.schedule import Boarding, Gathered, NotRefilled, Seats, prompts_apart
from flexplan.simulation import time_of_passes

_SAMPLES = 8  # passes that stand for a job: it is compared with itself
_EVERY = 1, 4, 16  # passes after which prompts have one of their own, at its best


@dataclass(frozen=True, slots=True)
class JobPart:
    """``without_s`` are the job's seconds without one part of the schedule, ``with_s`` with all of them."""

    name: str
    says: str
    with_s: float
    without_s: float

    @property
    def percent(self) -> float:
        """How many more tokens a second it brings."""
        return 100 * (self.without_s / self.with_s - 1)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"name": self.name, "says": self.says, "without_s": self.without_s, "brings_percent": self.percent}


def job_parts(plan: Plan) -> tuple[JobPart, ...]:
    """Each part of a rolling plan's schedule, in the order in which they build on each other."""
    job = _Job(plan)
    as_it_is = job.seconds(job.block, job.boardings(Seats(*job.seats)))
    return tuple(JobPart(name, says, as_it_is, seconds) for name, says, seconds in job.without())


class _Job:
    """One list of requests, its passes played in several ways."""

    def __init__(self, plan: Plan) -> None:
        self.problem, self.policy = plan.problem, plan.policy
        self.block = rolling_block(plan.problem.workload, plan.policy)
        rows = range(plan.problem.workload.num_prompts or self.block.num_rows)
        self.lens = plan.problem.workload.likely_lens_of(rows)
        self.seats = (self.block, plan.problem.workload, plan.policy, self.lens)

    def without(self) -> Iterator[tuple[str, str, float]]:
        """(name, what it is, seconds without it)."""
        seconds = self.seconds(self.block, self.boardings(NotRefilled(*self.seats)))
        yield (
            "refill",
            "a seat that is left is taken at once; without it all seats wait for the longest answer",
            seconds,
        )
        apart = [list(prompts_apart(self.boardings(Gathered(*self.seats, every=n)))) for n in _EVERY]
        seconds = min(self.seconds(self.block, boardings) for boardings in apart)
        yield "mixing", "prompts share passes with those who decode; without it they have passes of their own", seconds
        if len({batch.prompt_len for batch in self.block.batches}) > 1:
            seconds = self.seconds(*self._other(self.policy, _all_as_large(self.block)))
            yield "seats of many sizes", "without them all seats have room for the longest request", seconds
        if self.policy.room_percent:
            whole = replace(self.policy, room_percent=0.0)
            seconds = self.seconds(*self._other(whole, self._as_many_tokens(whole)))
            yield "moving on", "seats have room for what is likely; without it for all that may come", seconds

    def boardings(self, seats: Seats) -> list[Boarding]:
        return [one for one in seats.boardings(never) if not one.waits]

    def seconds(self, block: Block, boardings: Sequence[Boarding]) -> float:
        return time_of_passes(self.problem, self.policy, block, boardings, _SAMPLES).seconds

    def _other(self, policy: Policy, block: Block) -> tuple[Block, list[Boarding]]:
        return block, self.boardings(Seats(block, self.problem.workload, policy, self.lens))

    def _as_many_tokens(self, policy: Policy) -> Block:
        """The seats of a policy, as many as take no more than the plan's."""
        most, size = _tokens(self.block), policy.gpu_batch_size
        found = rolling_block(self.problem.workload, policy)
        while _tokens(found) > most and size > 1:
            size = min(size - 1, max(1, size * most // _tokens(found)))
            found = rolling_block(self.problem.workload, replace(policy, gpu_batch_size=size))
        return found


def _tokens(block: Block) -> int:
    return sum(batch.num_rows * batch.prompt_len for batch in block.batches)


def _all_as_large(block: Block) -> Block:
    """Seats of the largest size, as many in as many micro-batches as take no more tokens."""
    room, count = block.prompt_len, len(block.batches)
    seats = max(1, _tokens(block) // room)
    edges = [seats * n // count for n in range(count + 1)]
    groups = [range(lo, hi) for lo, hi in pairwise(edges) if hi > lo]
    one = block.batches[0]
    return replace(block, batches=tuple(replace(one, rows=tuple(rows), prompt_len=room) for rows in groups))
