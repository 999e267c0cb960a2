"""What the page's script draws, as plain data: a pass lane by lane, and the memory of each tier over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flexplan.explanation import OnePass, Surroundings, heaviest_placement, latest, tier_use
from flexplan.graph import TIERS, Span
from flexplan.job import Recording
from flexplan.plan import Plan

MOST_SPANS = 6_000  # of a picture; of a longer pass some layers are shown, as all are alike
_DIGITS = 7
Window = tuple[float, float]


def pass_chart(around: Surroundings, views: Mapping[str, OnePass]) -> dict[str, Any]:
    """The views of one pass (``predicted``, ``measured``), all of the same layers."""
    layers = _layers_to_show(around, max(len(view.spans) for view in views.values()))
    late = latest(views["predicted"], views["measured"]) if len(views) > 1 else []
    return {
        "i": around.sweep.i,
        "took_s": {name: view.took_s for name, view in views.items()},
        "layers": None if layers is None else [layers.start, layers.stop - 1],
        "views": {name: _picture(around, view, layers, late) for name, view in views.items()},
    }


def _layers_to_show(around: Surroundings, num_spans: int) -> range | None:
    """Layers in the middle of the pass; None for all."""
    if num_spans <= MOST_SPANS:
        return None
    layers = 1 + max(task.j for task in around.sweep.tasks)
    count = max(1, MOST_SPANS * layers // num_spans)
    first = (layers - count) // 2
    return range(first, first + count)


def _picture(around: Surroundings, view: OnePass, layers: range | None, late: Sequence[str]) -> dict[str, Any]:
    """Bars as (lane, kind, token, layer, micro-batch, start, seconds), gaps as (lane, waits for, start, seconds).

    ``late`` are the places of bars that are to be marked.
    """
    low_s, high_s = _window(around, view, layers)
    spans = [span for span in view.spans if span.end_s > low_s and span.start_s < high_s]
    gaps = [gap for gap in view.gaps if gap.end_s > low_s and gap.start_s < high_s]
    lanes = list(dict.fromkeys([span.lane for span in spans] + [gap.lane for gap in gaps]))
    kinds = list(dict.fromkeys(around.tasks[span.name].kind for span in spans))
    return {
        "lanes": lanes,
        "kinds": kinds,
        "took_s": high_s - low_s,
        "late": [n for n, span in enumerate(spans) if span.name in late],
        "spans": [_bar(around, span, lanes, kinds, low_s) for span in spans],
        "gaps": [
            [lanes.index(gap.lane), gap.waits_for, *_clipped(gap.start_s, gap.end_s, low_s, high_s)] for gap in gaps
        ],
    }


def _bar(around: Surroundings, span: Span, lanes: list[str], kinds: list[str], low_s: float) -> list[Any]:
    task = around.tasks[span.name]
    start_s, took_s = round(span.start_s - low_s, _DIGITS), round(span.end_s - span.start_s, _DIGITS)
    return [lanes.index(span.lane), kinds.index(task.kind), task.i, task.j, task.k, start_s, took_s]


def _window(around: Surroundings, view: OnePass, layers: range | None) -> Window:
    """From the first to the last moment in which one of these layers computes."""
    if layers is None:
        return 0.0, view.took_s
    tasks = around.tasks
    mine = [s for s in view.spans if tasks[s.name].i == view.i and tasks[s.name].j in layers]
    computing = [s for s in mine if tasks[s.name].kind == "compute"] or mine
    return min(s.start_s for s in computing), max(s.end_s for s in computing)


def _clipped(start_s: float, end_s: float, low_s: float, high_s: float) -> tuple[float, float]:
    start_s, end_s = max(start_s, low_s), min(end_s, high_s)
    return round(start_s - low_s, _DIGITS), round(end_s - start_s, _DIGITS)


def memory_chart(plan: Plan, recording: Recording | None) -> dict[str, Any]:
    """What each tier holds while the heaviest block runs, and what it held in a run.

    Keys and values fill their room token by token.
    """
    placement, hardware, budgets = heaviest_placement(plan), plan.problem.hardware, plan.problem.budgets()
    use, block, p = tier_use(placement), placement.block, plan.prediction
    prompt = sum(b.num_rows * b.prompt_len for b in block.batches)
    room = sum(b.num_rows * (b.prompt_len + block.gen_len - 1) for b in block.batches)
    return {
        "prefill_s": p.block_s * p.prefill_s / (p.total_s or 1.0),
        "block_s": p.block_s,
        "filled_by_prompt": prompt / room if p.prefill_s else 1.0,  # seats of a rolling job are taken at any time
        "held": recording.memory if recording else [],
        "tiers": {
            tier: {
                **use[tier]._asdict(),
                "libraries": getattr(hardware, f"{tier}_bytes") - budgets[tier],
                "budget": getattr(hardware, f"{tier}_bytes"),
            }
            for tier in TIERS
            if any(use[tier])
        },
    }


def standing_chart(recording: Recording | None) -> dict[str, Any] | None:
    """How many rows were live and how much of their cache in use, pass after pass; None where nobody looked."""
    if recording is None or len(recording.standing) < 2:
        return None
    passes = [[round(at_s, 3), *counts] for at_s, *counts in recording.standing]
    return {"seats": recording.seats, "reserved": recording.reserved, "passes": passes}
