"""A few prompts much longer than the others: what they cost all of them, said with what to do.

A micro-batch is padded to its longest prompt, and a plan has room for the longest anywhere; so one prompt of 30,000
tokens among short ones may make micro-batches of one sequence of them all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress

from flexplan.errors import InfeasiblePlan
from flexplan.plan.plan import Plan
from flexplan.problem import Problem, Workload

Ask = Callable[[Problem], Plan]

_COMMON = 0.95  # of the prompts, the shortest
_TIMES = 4  # as long as the longest of those: then a prompt is a long one
_WORTH = 1.5  # times as slow together as apart: then it is said


def longest_common(lens: tuple[int, ...]) -> int | None:
    """The tokens beyond which prompts are much longer than nearly all others; None where none are.

    >>> longest_common((20, 30, 40) * 20 + (3000,)), longest_common((20, 30, 40, 50)), longest_common((512,))
    (160, None, None)
    """
    if not lens:
        return None
    limit = _TIMES * sorted(lens)[int(_COMMON * (len(lens) - 1))]
    return limit if max(lens) > limit else None


def warn_of_long_prompts(ask: Ask, plan: Plan) -> None:
    """Warn where the prompts of a plan would be much faster as two jobs; that takes two more solves, only then."""
    lens = plan.problem.workload.prompt_lens
    limit = longest_common(lens)
    if limit is None:
        return
    with suppress(InfeasiblePlan):  # where one of the two has no plan of its own, there is nothing to advise
        short, long = (ask(_of(plan.problem, part)) for part in _parts(lens, limit))
        together_s, apart_s = plan.prediction.total_s, short.prediction.total_s + long.prediction.total_s
        if together_s > _WORTH * apart_s:
            count = sum(length > limit for length in lens)
            warnings.warn(
                f"{count} of {len(lens)} prompts have more than {limit} tokens, the longest {max(lens)}, and the plan "
                f"has to have room for that anywhere: all are predicted to take {together_s:.4g} s, the shorter ones "
                f"alone {short.prediction.total_s:.4g} s and the longer ones {long.prediction.total_s:.4g} s. Give "
                "the longer ones a file of their own, and solve and run each",
                stacklevel=3,
            )


def _parts(lens: tuple[int, ...], limit: int) -> tuple[list[int], list[int]]:
    """The places of the shorter ones, and of the longer ones."""
    places = range(len(lens))
    return [n for n in places if lens[n] <= limit], [n for n in places if lens[n] > limit]


def _of(problem: Problem, places: Sequence[int]) -> Problem:
    work = problem.workload
    lens, gen_lens = (tuple(given[n] for n in places) if given else () for given in (work.prompt_lens, work.gen_lens))
    workload = Workload(
        prompt_lens=lens,
        gen_len=work.gen_len,
        gen_lens=gen_lens,
        expected_lens=work.expected_lens,
        expected_prompts=work.expected_prompts,
    )
    return problem.model_copy(update={"workload": workload})
