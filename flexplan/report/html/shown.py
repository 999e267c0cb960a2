"""What a report is about: an explanation, a recording of a run or none, and the passes of both that are shown."""

from __future__ import annotations

from dataclasses import dataclass

from flexplan.explanation import Explanation, OnePass, Surroundings, predicted_spans, surroundings, view
from flexplan.job import Recording
from flexplan.plan import Plan, passes_to_show

Views = dict[str, OnePass]  # "predicted", and "measured" where that is known


@dataclass(frozen=True)
class Shown:
    """``plan`` is for the very prompts that ran, where some did; else it is the one that is explained."""

    found: Explanation
    recording: Recording | None
    plan: Plan
    passes: tuple[tuple[Surroundings, Views], ...]

    @classmethod
    def of(cls, found: Explanation, recording: Recording | None) -> Shown:
        """With its passes simulated."""
        plan = recording.plan if recording else found.plan
        passes = (_pass(plan, recording, i) for i in passes_to_show(plan))
        return cls(found, recording, plan, tuple(one for one in passes if one))

    @property
    def is_measured(self) -> bool:
        """Is something measured to be shown of a pass?"""
        return any("measured" in views for _, views in self.passes)


def _pass(plan: Plan, recording: Recording | None, i: int) -> tuple[Surroundings, Views] | None:
    around = surroundings(plan, i)
    if around is None:
        return None
    found = {"predicted": view(around, predicted_spans(plan, around))}
    found["measured"] = view(around, recording.spans) if recording else None
    return around, {name: one for name, one in found.items() if one is not None}
