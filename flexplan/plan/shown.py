"""The passes that show a block: all are alike but the first, and the tasks of all of them would fill memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexplan.sandbox import schedule_of
from flexplan.schedule import rolls

if TYPE_CHECKING:
    from flexplan.plan.plan import Plan


def passes_to_show(plan: Plan) -> tuple[int, ...]:
    """The numbers of these passes: the first, which is the prefill, and one half-way through an output.

    Of a rolling job passes are counted from 1, and prompts come in in any of them.
    """
    first, gen_len = int(rolls(schedule_of(plan.schedule))), plan.problem.workload.gen_len
    return (first, first + gen_len // 2) if gen_len > 1 else (first,)


def tokens_to_keep(plan: Plan) -> frozenset[int]:
    """The tokens, or passes, whose tasks show those: they themselves and their neighbours, as lanes work ahead."""
    return frozenset(j for i in passes_to_show(plan) for j in (i - 1, i, i + 1) if j >= 0)
