"""Timeline: when every task ran, predicted or measured; one type, so that both lie side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from flexplan.drawing import Picture, draw_lanes
from flexplan.errors import UsageError
from flexplan.graph.kinds import LANES
from flexplan.units import format_duration


class Span(NamedTuple):
    """One task's time on its lane, in seconds from where its timeline begins."""

    name: str
    lane: str
    i: int
    start_s: float
    end_s: float


@dataclass(repr=False)
class Timeline:
    """Spans in order of their end, and what they add up to.

    The sums are always there; ``spans`` only where a trace was asked for, as each takes some 250 bytes.
    """

    spans: list[Span] = field(default_factory=list)
    end_s: float = 0.0
    lane_busy_s: dict[str, float] = field(default_factory=dict)
    resource_busy_s: dict[str, float] = field(default_factory=dict)
    sweep_end_s: dict[int, float] = field(default_factory=dict)
    num_tasks: int = 0
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Timeline({self.num_tasks} tasks on {len(self.lane_busy_s)} lanes, {self.end_s:.6g} s)"

    def add(self, span: Span, keep: bool = True) -> None:
        """Count a span; ``keep`` it for traces."""
        if keep:
            self.spans.append(span)
        self.count(span.lane, span.i, span.start_s, span.end_s)

    def count(self, lane: str, i: int, start_s: float, end_s: float) -> None:
        """Count a task of token i that is not kept."""
        self.num_tasks += 1
        self.end_s = max(self.end_s, end_s)
        self.lane_busy_s[lane] = self.lane_busy_s.get(lane, 0.0) + end_s - start_s
        if end_s > self.sweep_end_s.get(i, 0.0):
            self.sweep_end_s[i] = end_s

    def and_then(self, other: Timeline, times: float = 1) -> Timeline:
        """This one and, one after the other, so many like ``other``: sums of both; the spans are this one's."""
        ends = {
            i: self.sweep_end_s.get(i, self.end_s) + times * other.sweep_end_s.get(i, other.end_s)
            for i in sorted({*self.sweep_end_s, *other.sweep_end_s})
        }
        return replace(
            self,
            end_s=self.end_s + times * other.end_s,
            lane_busy_s=_sums(self.lane_busy_s, other.lane_busy_s, times),
            resource_busy_s=_sums(self.resource_busy_s, other.resource_busy_s, times),
            sweep_end_s=ends,
            num_tasks=self.num_tasks + round(times * other.num_tasks),
        )

    @property
    def prefill_s(self) -> float:
        """Until the first token of every row."""
        return self.sweep_end_s.get(0, 0.0)

    @property
    def decode_s(self) -> float:
        """From then to the end."""
        return self.end_s - self.prefill_s

    def busiest_lane(self) -> str:
        """The lane that works most of the time."""
        return max(self.lane_busy_s, key=lambda lane: self.lane_busy_s[lane], default="")

    def lane_order(self) -> Mapping[str, list[str]]:
        """Task names of each lane in the order in which they started."""
        self._refuse_without_spans()
        order: dict[str, list[str]] = {}
        for span in sorted(self.spans, key=lambda s: s.start_s):
            order.setdefault(span.lane, []).append(span.name)
        return order

    def plot(self, token: int | None = None, *, end_s: float | None = None) -> Picture:
        """A picture for a notebook, or a file (`Picture.save`): a row a lane; of one ``token`` its tasks alone.

        It begins with the first task and goes as far as the last, or for ``end_s`` seconds.
        UsageError where the tasks were not kept, or there is no such token.
        """
        self._refuse_without_spans()
        spans = [span for span in self.spans if token in (None, span.i)]
        if token is not None and not spans:
            known = f"0 to {max(self.sweep_end_s, default=0)}"
            raise UsageError("FP189", f"no task of token {token} was kept, tokens are {known}", fix="give one of those")
        first_s = min((span.start_s for span in spans), default=0.0)
        bars = [(span.name, span.lane, span.start_s - first_s, span.end_s - first_s) for span in spans]
        lanes = sorted({span.lane for span in spans}, key=_rank)
        last_s = max((bar[3] for bar in bars), default=0.0)
        return draw_lanes(bars, lanes, end_s or last_s, f"{len(spans):,} tasks, {format_duration(last_s)}")

    def _repr_html_(self) -> str | None:
        return self.plot().svg if self.spans else None

    def to_chrome_trace(self, path: str | Path, *others: tuple[str, Timeline], name: str = "predicted") -> None:
        """Write a trace for Perfetto or chrome://tracing; ``others`` are shown beside as processes of their own."""
        Path(path).write_text(self.chrome_trace(*others, name=name))

    def chrome_trace(self, *others: tuple[str, Timeline], name: str = "predicted") -> str:
        """The text of that trace."""
        for timeline in (self, *(t for _, t in others)):
            timeline._refuse_without_spans()
        events = [e for n, (label, t) in enumerate([(name, self), *others], 1) for e in t._events(n, label)]
        return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})

    def _refuse_without_spans(self) -> None:
        if self.num_tasks and not self.spans:
            message = f"of the timeline's {self.num_tasks:,} tasks only the sums were kept"
            raise UsageError(
                "FP149", message, fix="ask for spans: generate(..., trace=True), simulate_graph(keep=True)"
            )

    def _events(self, pid: int, label: str) -> Iterable[dict[str, object]]:
        yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": label}}
        lanes = sorted({s.lane for s in self.spans}, key=_rank)
        for n, lane in enumerate(lanes):
            tid = 100 * pid + n  # a thread whose id is the process's is drawn as its main thread
            yield {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": lane}}
            yield {"ph": "M", "pid": pid, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": n}}
        for s in self.spans:
            tid = 100 * pid + lanes.index(s.lane)
            duration = (s.end_s - s.start_s) * 1e6
            yield {"ph": "X", "pid": pid, "tid": tid, "name": s.name, "ts": s.start_s * 1e6, "dur": duration}
        for tier, nbytes in self.peak_bytes.items():
            yield {"ph": "C", "pid": pid, "tid": 0, "name": f"{tier} bytes", "ts": 0, "args": {"planned": nbytes}}


def _rank(lane: str) -> int:
    return LANES.index(lane) if lane in LANES else len(LANES)


def _sums(these: Mapping[str, float], those: Mapping[str, float], times: float) -> dict[str, float]:
    return {name: these.get(name, 0.0) + times * those.get(name, 0.0) for name in {**these, **those}}
