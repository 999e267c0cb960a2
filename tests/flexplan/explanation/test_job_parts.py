"""What each part of the rolling schedule brings for a list is the difference that it makes; nothing where it cannot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from flexplan.explanation.job_parts import JobPart, job_parts
from flexplan.graph import never
from flexplan.plan import Plan
from flexplan.policy import Policy, rolling_block
from flexplan.problem import Problem, Workload
from flexplan.schedule import Boarding, Gathered, NotRefilled, prompts_apart
from flexplan.testing import policy_with

POLICY = policy_with(4, 2, w=(0, 100), cache=(0, 100), act=(100, 0), cpu_cache_compute=True)
SHORT, LONG = 4, 60


def listed(gen_lens: tuple[int, ...], need: int = 0) -> Workload:
    """Prompts of 16 tokens, or so many that each request needs as large a seat."""
    lens = tuple(need - new if need else 16 for new in gen_lens)
    return Workload(prompt_lens=lens, gen_lens=gen_lens, gen_len=max(gen_lens), prompt_len=max(lens))


def parts(workload: Workload, policy: Policy = POLICY) -> dict[str, JobPart]:
    asked = Problem.of("facebook/opt-125m", hardware="t4-gcp").model_copy(update={"workload": workload})
    return {part.name: part for part in job_parts(Plan.of(asked, policy, schedule="rolling"))}


def newcomers(boardings: Iterable[Boarding]) -> list[int]:
    return [guest.request for one in boardings for group in one.newcomers.values() for guest in group]


def test_refilling_is_worth_what_answers_differ() -> None:
    """One of eight answers is fifteen times as long: a block of eight seats waits for it each time."""
    ragged, even = (parts(listed(lens, 80)) for lens in ((LONG, *(SHORT,) * 7) * 6, (20,) * 48))
    assert ragged["refill"].percent > 50
    assert abs(even["refill"].percent) < 10
    assert "seats of many sizes" not in {**ragged, **even}
    assert ragged["refill"].without_s == pytest.approx(ragged["refill"].with_s * (1 + ragged["refill"].percent / 100))


def test_sizes_are_worth_what_requests_differ() -> None:
    assert parts(listed((LONG, *(SHORT,) * 7) * 6))["seats of many sizes"].percent > 10


def test_coming_again_is_told_where_a_seat_has_no_room_for_all_of_an_answer() -> None:
    assert "moving on" not in parts(listed((LONG,) * 16))
    assert "moving on" in parts(listed((LONG,) * 16), replace(POLICY, room_percent=50.0))


def test_without_refilling_nobody_takes_a_seat_before_all_have_left() -> None:
    work = listed((LONG, SHORT, 9, 30) * 12)
    boardings = list(NotRefilled(rolling_block(work, POLICY), work, POLICY).boardings(never))
    taken: set[tuple[int, int]] = set()
    for one in boardings:
        if not one.guests:
            taken.clear()
        for group in one.newcomers.values():
            seats = {(guest.k, guest.row) for guest in group}
            assert not seats & taken
            taken |= seats
    assert sorted(newcomers(boardings)) == list(range(48))


def test_prompts_apart_are_in_passes_where_nobody_decodes() -> None:
    work = listed((LONG, SHORT, 9, 30) * 12)
    for every in (1, 4):
        seats = Gathered(rolling_block(work, POLICY), work, POLICY, every=every)
        apart = list(prompts_apart(seats.boardings(never)))
        assert not any(one.guests and one.newcomers for one in apart)
        assert [one.number for one in apart] == list(range(len(apart)))
        assert sorted(newcomers(apart)) == list(range(48))
        decoded = sum(len(group) for one in apart for group in one.guests.values())
        assert decoded == sum(work.gen_lens) - 48  # the first token of each is chosen as it comes in
