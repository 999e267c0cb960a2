"""A run recorded for a report: what its blocks add up to, the tasks of a few passes, what the tiers held when."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from flexplan.explanation import job_bound
from flexplan.graph import Span, Timeline
from flexplan.job import Recording, Standing, UsageMean
from flexplan.plan import Plan, tokens_to_keep
from flexplan.policy import Policy
from flexplan.sandbox import schedule_of
from flexplan.schedule import rolls
from flexplan_runtime.commands.prepare import Ready
from flexplan_runtime.measure import fingerprint

Sample = tuple[float, int, int, int]  # seconds, bytes on gpu, cpu and disk


class Seen(Protocol):
    """What somebody saw who watched a run, pass after pass."""

    samples: list[Sample]
    standing: list[tuple[float, int, int, int]]
    largest: Standing
    mean: UsageMean


def whole_bound(plan: Plan) -> tuple[float, str]:
    """Seconds that no order of a plan's work can beat, and the resource that sets them."""
    bound = job_bound(plan)
    return bound.total_s, bound.limit


class Recorder:
    """Takes each block as it ends; ``plan`` is for the very prompts that run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.trace = tokens_to_keep(plan)
        self.num_blocks = 0
        self.prefill_s = self.decode_s = 0.0
        self.lane_busy_s: Counter[str] = Counter()
        self.spans: tuple[Span, ...] = ()
        self._as_planned = True
        self._rolls = rolls(schedule_of(plan.schedule))

    def stepped(self, policy: Policy) -> None:
        """Memory gave out: blocks are smaller from here on, and their tasks not those of the plan."""
        self._as_planned = False

    def block_ended(self, timeline: Timeline) -> None:
        """Count a block; of the first one keep the tasks."""
        if not self.num_blocks and self._as_planned:
            self.spans = tuple(span for span in timeline.spans if span.i in self.trace)
        self.num_blocks += 1
        if not self._rolls:  # there prompts come in all through the job
            self.prefill_s += timeline.prefill_s
        self.decode_s += timeline.end_s if self._rolls else timeline.decode_s
        self.lane_busy_s.update(timeline.lane_busy_s)

    def recording(
        self, ready: Ready, seen: Seen, num_tokens: int, load_s: float, bound: tuple[float | None, str]
    ) -> Recording:
        """All of it; ``seen`` is by seconds since the weights were loaded."""
        return Recording(
            plan=self.plan,
            device=fingerprint(ready.env.device),
            dtype=str(ready.dtype).removeprefix("torch."),
            num_blocks=self.num_blocks,
            num_tokens=num_tokens,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            lane_busy_s=dict(self.lane_busy_s),
            spans=self.spans,
            memory=((-load_s, 0, 0, 0), *seen.samples),
            standing=tuple(seen.standing),
            seats=seen.largest.seats,
            reserved=seen.largest.reserved,
            usage=seen.mean.usage,
            bound_s=bound[0],
            bound_limit=bound[1],
        )
