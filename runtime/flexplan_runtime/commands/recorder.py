"""A run recorded for a report: what its blocks add up to, the tasks of a few passes, what the tiers held when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from flexplan.graph import Span, Timeline
from flexplan.job import Recording
from flexplan.plan import Plan, tokens_to_keep
from flexplan.policy import Policy
from flexplan_runtime.commands.prepare import Ready
from flexplan_runtime.measure import fingerprint

Sample = tuple[float, int, int, int]  # seconds, bytes on gpu, cpu and disk


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

    def stepped(self, policy: Policy) -> None:
        """Memory gave out: blocks are smaller from here on, and their tasks not those of the plan."""
        self._as_planned = False

    def block_ended(self, timeline: Timeline) -> None:
        """Count a block; of the first one keep the tasks."""
        if not self.num_blocks and self._as_planned:
            self.spans = tuple(span for span in timeline.spans if span.i in self.trace)
        self.num_blocks += 1
        self.prefill_s += timeline.prefill_s
        self.decode_s += timeline.decode_s
        self.lane_busy_s.update(timeline.lane_busy_s)

    def recording(self, ready: Ready, samples: Sequence[Sample], num_tokens: int, load_s: float) -> Recording:
        """All of it; ``samples`` are what the tiers held, by seconds since the weights were loaded."""
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
            memory=((-load_s, 0, 0, 0), *samples),
        )
