"""Seats: every request sits once, alone, where it has room, and for as long as it has tokens to choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexplan.errors import GraphError
from flexplan.graph import Sweep, Task, TaskGraph, check_graph, check_order, never
from flexplan.model.shape import Latent
from flexplan.placement import Placement
from flexplan.policy import Policy, need_of, rolling_block
from flexplan.problem import Problem, Workload
from flexplan.proof import SeatingLaws
from flexplan.schedule import Boarding, Guest, Seats, rolling_graph
from flexplan.testing import policy_with, small_shape

lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), min_size=1, max_size=40)
policies = st.builds(
    lambda size, n, admit, room: Policy(size, n, admit_tokens=admit, room_percent=room),
    st.integers(1, 5),
    st.integers(1, 6),
    st.sampled_from([0, 1, 7, 100]),
    st.sampled_from([0.0, 1.0, 30.0, 120.0]),
)
expected = st.lists(st.integers(1, 30), max_size=4).map(tuple)


def workload_of(requests: list[tuple[int, int]], expected: tuple[int, ...] = ()) -> Workload:
    lens, most = tuple(p for p, _ in requests), tuple(g for _, g in requests)
    return Workload(prompt_lens=lens, gen_lens=most, expected_lens=expected)


def boardings_of(work: Workload, policy: Policy, stopped: dict[int, int] | None = None) -> list[Boarding]:
    """All passes; ``stopped`` has the pass from which on a request is known to have ended."""
    block, seen = rolling_block(work, policy), [0]
    found = []

    def finished(request: int) -> bool:
        return (stopped or {}).get(request, 1 << 30) <= seen[0]

    for boarding in Seats(block, work, policy).boardings(finished if stopped else never):
        found.append(boarding)
        seen[0] = boarding.number + 1
    return found


@given(lengths, policies, expected)
def test_every_request_chooses_each_of_its_tokens_once(
    requests: list[tuple[int, int]], policy: Policy, expected: tuple[int, ...]
) -> None:
    boardings = boardings_of(workload_of(requests, expected), policy)
    came = Counter(g.request for b in boardings for some in b.newcomers.values() for g in some if not g.had)
    assert came == Counter(range(len(requests)))
    chosen = Counter(
        (g.request, g.chosen(b.number))
        for b in boardings
        for group in (b.guests, b.newcomers)
        for some in group.values()
        for g in some
    )
    assert chosen == Counter((n, token) for n, (_, most) in enumerate(requests) for token in range(most))
    assert [b.last for b in boardings] == [False] * (len(boardings) - 1) + [True]


@given(lengths, policies, expected)
def test_nobody_shares_a_seat_and_every_seat_has_room(
    requests: list[tuple[int, int]], policy: Policy, expected: tuple[int, ...]
) -> None:
    work = workload_of(requests, expected)
    block = rolling_block(work, policy)
    assert block.num_rows == min(len(requests), policy.block_size)
    for boarding in boardings_of(work, policy):
        there = [g for group in (boarding.guests, boarding.newcomers) for some in group.values() for g in some]
        assert len({(g.k, g.row) for g in there}) == len({g.request for g in there}) == len(there)
        for k, some in boarding.newcomers.items():
            assert boarding.prompt_tokens(k) <= block.door_tokens
            assert all(g.prompt_len <= block.batches[k].prompt_len for g in some)
            if not policy.room_percent:
                assert all(need_of(g.prompt_len, g.most) <= block.batches[k].prompt_len for g in some)
        assert len(boarding.newcomers) <= block.doors
        for k, some in boarding.guests.items():
            assert boarding.contexts[k] == sum(g.context(boarding.number) for g in some)
            assert all(g.context(boarding.number) <= block.batches[k].prompt_len for g in some)


@given(lengths, policies, expected)
def test_who_steps_back_comes_again_by_what_it_has(
    requests: list[tuple[int, int]], policy: Policy, expected: tuple[int, ...]
) -> None:
    had = dict[int, int]()
    for boarding in boardings_of(workload_of(requests, expected), policy):
        for some in boarding.newcomers.values():
            for guest in some:
                prompt, most = requests[guest.request]
                assert guest.had == had.get(guest.request, 0)
                assert (guest.prompt_len, guest.most) == (prompt + guest.had, most - guest.had)
        for group in (boarding.guests, boarding.newcomers):
            had |= {g.request: g.chosen(boarding.number + 1) for some in group.values() for g in some}


@given(lengths, policies)
def test_a_pass_takes_in_no_more_than_it_is_allowed_but_always_one(
    requests: list[tuple[int, int]], policy: Policy
) -> None:
    for boarding in boardings_of(workload_of(requests), policy):
        lens = [g.prompt_len for some in boarding.newcomers.values() for g in some]
        if policy.admit_tokens and len(lens) > 1:
            assert sum(lens) <= policy.admit_tokens


@given(lengths, policies, st.dictionaries(st.integers(0, 39), st.integers(1, 30), min_size=1))
def test_a_seat_whose_request_has_stopped_serves_another(
    requests: list[tuple[int, int]], policy: Policy, stopped: dict[int, int]
) -> None:
    boardings = boardings_of(workload_of(requests), policy, stopped)
    for boarding in boardings:
        for some in boarding.guests.values():
            assert all(stopped.get(g.request, 1 << 30) > boarding.number for g in some)
    came = {guest.request for b in boardings for some in b.newcomers.values() for guest in some}
    assert came == set(range(len(requests)))


def test_rooms_take_less_than_seats_that_all_hold_the_longest() -> None:
    work = workload_of([(10, 11)] * 90 + [(400, 5)] * 10)
    block = rolling_block(work, Policy(5, 4))
    reserved = sum(batch.num_rows * batch.prompt_len for batch in block.batches)
    assert reserved < 20 * 404 / 2
    assert max(batch.prompt_len for batch in block.batches) == 404


# -- the graph -----------------------------------------------------------------------------------------------------
ROLLING = {
    "gpu": Policy(2, 2),
    "host": policy_with(2, 3, w=(50, 50), cache=(0, 100), cpu_cache_compute=True),
    "between": policy_with(2, 3, w=(0, 100), cache=(50, 50), cpu_cache_compute=True, sep_layer=False, admit_tokens=9),
    "packed": policy_with(3, 1, w=(0, 100), cache=(40, 60), cpu_cache_compute=True, compress_weight=True),
    "outgrown": policy_with(4, 2, w=(0, 100), cache=(0, 100), cpu_cache_compute=True, room_percent=30),
    "inline": policy_with(2, 2, w=(30, 30), cache=(20, 80), overlap=False, cpu_cache_compute=True),
}


LATENT = Latent(size=48, turned=16, plain=16, value=32)
MODELS = {
    "plain": small_shape(),
    "windows": small_shape().model_copy(update={"windows": (3, 0, 5)}),
    "latent": small_shape().model_copy(update={"latent": LATENT, "num_kv_heads": 1}),
}


def problem_of(requests: list[tuple[int, int]], model: str = "plain") -> Problem:
    lens, most = tuple(p for p, _ in requests), tuple(g for _, g in requests)
    return Problem.of(MODELS[model], gpu_mem="8G", cpu_mem="8G", disk_mem="8G", prompt_lens=lens, gen_lens=most)


@pytest.mark.parametrize(
    ("name", "model"), [*((name, "plain") for name in ROLLING), ("between", "windows"), ("between", "latent")]
)
@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=13))
def test_every_pass_is_proved(name: str, model: str, requests: list[tuple[int, int]]) -> None:
    problem = problem_of(requests, model)
    check_graph(rolling_graph("rolling", problem, ROLLING[name]), problem.budgets())


LARGEST = 1  # the micro-batch with room for the longest, in two
REQUESTS = [(3, 4), (7, 2), (2, 6), (5, 1), (9, 3), (1, 5), (4, 4), (6, 2)]
LONG = [(2, 7), (3, 6), (2, 5), (4, 6), (9, 3), (1, 7), (3, 5), (2, 6)]  # more of them outgrow a seat than find another


def graph_of(name: str) -> TaskGraph:
    return rolling_graph("rolling", problem_of(LONG if name == "outgrown" else REQUESTS), ROLLING[name])


def refused(change: Callable[[Sweep], Sweep], name: str = "host", at: int = 1, model: str = "plain") -> str:
    """What the laws say of the built-in graph with one pass changed; those before it are accepted."""
    requests = LONG if name == "outgrown" else REQUESTS
    graph = rolling_graph("rolling", problem_of(requests, model), ROLLING[name])
    block = rolling_block(problem_of(requests).workload, ROLLING[name])
    laws = SeatingLaws(Placement.of(MODELS[model], ROLLING[name], block))
    sweeps = list(graph.sweeps())
    for sweep in sweeps[:at]:
        laws.take(sweep)
    with pytest.raises(GraphError, match="FP833") as error:
        laws.take(change(sweeps[at]))
    return str(error.value)


def with_boarding(sweep: Sweep, **changes: Any) -> Sweep:
    return Sweep(sweep.i, sweep.ks, sweep.tasks, boarding=replace(sweep.boarding, **changes))


def with_tasks(sweep: Sweep, keep: Callable[[Task], Task | None]) -> Sweep:
    tasks = [kept for task in sweep.tasks if (kept := keep(task)) is not None]
    return Sweep(sweep.i, sweep.ks, tasks, boarding=sweep.boarding)


@pytest.mark.parametrize("model", MODELS)
def test_the_built_in_graph_keeps_the_laws(model: str) -> None:
    for policy in ROLLING.values():
        for requests in (REQUESTS, LONG):
            problem = problem_of(requests, model)
            laws = SeatingLaws(Placement.of(problem.model, policy, rolling_block(problem.workload, policy)))
            for sweep in rolling_graph("rolling", problem, policy).sweeps():
                laws.take(sweep)


def test_a_seat_that_is_given_to_two_is_found() -> None:
    def twice(sweep: Sweep) -> Sweep:
        k, (guest, *_) = next(iter(sweep.boarding.guests.items()))
        late = guest._replace(request=99, since=sweep.boarding.number)
        return with_boarding(sweep, newcomers={k: (late,)})

    assert "a seat that is taken" in refused(twice)


def test_a_row_that_decodes_before_its_prompt_is_in_is_found() -> None:
    def early(sweep: Sweep) -> Sweep:
        k, some = next(iter(sweep.boarding.guests.items()))
        return with_boarding(sweep, guests={k: (some[0]._replace(request=98), *some[1:])})

    assert "never came in" in refused(early)


def stepped_back() -> int:
    """The first sweep in which somebody comes again."""
    sweeps = graph_of("outgrown").sweeps()
    return next(n for n, s in enumerate(sweeps) if any(g.had for some in s.boarding.newcomers.values() for g in some))


def changed(sweep: Sweep, change: Callable[[Guest], Guest]) -> Sweep:
    """With those changed who come again."""
    newcomers = {k: tuple(change(g) if g.had else g for g in some) for k, some in sweep.boarding.newcomers.items()}
    return with_boarding(sweep, newcomers=newcomers)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda g: g._replace(had=g.had - 1), "comes again with"),
        (lambda g: g._replace(prompt_len=g.prompt_len - 1), "comes again with"),
        (lambda g: g._replace(most=g.most + 1), "comes again for"),
        (lambda g: g._replace(request=77), "was never there"),
        (lambda g: g._replace(prompt_len=g.prompt_len + 99), "than its"),
    ],
    ids=["a token less", "a shorter prompt", "for more tokens", "as another", "where there is no room"],
)
def test_who_comes_again_as_it_has_not_left_is_found(change: Callable[[Guest], Guest], says: str) -> None:
    assert says in refused(lambda sweep: changed(sweep, change), "outgrown", stepped_back())


def test_who_sits_in_two_seats_is_found() -> None:
    sweeps = list(graph_of("outgrown").sweeps())
    at = next(n for n, sweep in enumerate(sweeps) if sweep.boarding.guests and sweep.boarding.newcomers)

    def twice(sweep: Sweep) -> Sweep:
        guest = next(g for some in sweep.boarding.guests.values() for g in some)
        (k, (came, *_)), *_ = sweep.boarding.newcomers.items()
        return with_boarding(sweep, newcomers={k: (came._replace(request=guest.request),)})

    assert "sits in two seats" in refused(twice, "outgrown", at)


def test_who_comes_again_before_its_last_token_is_known_is_found() -> None:
    """In the very pass in which it has left its seat."""
    at = next(n for n, left in enumerate(leaving()) if left)
    guest = leaving()[at][0]

    def early(sweep: Sweep) -> Sweep:
        number = sweep.boarding.number
        tokens, had, most = guest.context(number), guest.chosen(number), guest.ends - number
        came = Guest(guest.request, LARGEST, 0, number, tokens, most, had)
        return with_boarding(sweep, guests={}, moves=(), newcomers={LARGEST: (came,)})

    assert "before its last token is known" in refused(early, "outgrown", at)


def leaving() -> list[list[Guest]]:
    """Of each pass, those who sat in the one before and step back."""
    found, before = list[list[Guest]](), list[Guest]()
    for sweep in graph_of("outgrown").sweeps():
        there = [
            g for group in (sweep.boarding.guests, sweep.boarding.newcomers) for some in group.values() for g in some
        ]
        found.append([g for g in before if g not in there and g.ends > sweep.boarding.number])
        before = there
    return found


@pytest.mark.parametrize("kind", ["compute", "store_cache", "store_ids", "load_ids"])
def test_a_task_that_is_left_out_is_found(kind: str) -> None:
    def without(sweep: Sweep) -> Sweep:
        dropped = next(t for t in sweep.tasks if t.kind == kind and (kind != "load_ids" or not t.i))
        return with_tasks(sweep, lambda task: None if task is dropped else task)

    said = refused(without, "between")
    assert kind in said or "keeps its tokens in" in said


def test_keys_that_go_to_another_seats_cache_are_found() -> None:
    def elsewhere(sweep: Sweep) -> Sweep:
        stored = next(t for t in sweep.tasks if t.kind == "store_cache")
        (home,) = stored.writes
        wrong = stored._replace(writes=(home._replace(index=home.index + 1),))
        return with_tasks(sweep, lambda task: wrong if task is stored else task)

    assert "keeps its tokens in" in refused(elsewhere)


@pytest.mark.parametrize("model", MODELS)
def test_tokens_of_a_prompt_that_are_not_kept_or_too_many_are_found(model: str) -> None:
    """The whole of a prompt, where a window has less, or a token less than there is."""

    def other(by: int) -> Callable[[Sweep], Sweep]:
        def change(sweep: Sweep) -> Sweep:
            stored = next(t for t in sweep.tasks if t.kind == "store_cache" and not t.i)
            (fresh,) = stored.reads
            wrong = stored._replace(reads=(fresh._replace(hi=fresh.hi + by),))
            return with_tasks(sweep, lambda task: wrong if task is stored else task)

        return change

    for by in (-64, 64):
        assert "bytes of new tokens" in refused(other(by), at=0, model=model)


def test_a_row_reads_its_window() -> None:
    """In the mean of its micro-batch: some rows have less than a window yet."""
    boardings = boardings_of(workload_of([(2, 4), (9, 4), (4, 4)]), Policy(3, 1))
    assert [b.attended(0, 5) for b in boardings[1:]] == [3 + 5 + 5, 4 + 5 + 5, 5 + 5 + 5]
    assert [b.attended(0, 0) for b in boardings[1:]] == [b.contexts[0] for b in boardings[1:]]


def test_bytes_that_are_overwritten_while_they_are_read_are_found() -> None:
    """The prompt of a newcomer is stored without waiting for attention over the seats beside it."""
    graph = rolling_graph("rolling", problem_of(REQUESTS), ROLLING["host"])
    nodes = list(graph.nodes())
    stored = next(n for n in nodes if n.task.kind == "store_cache" and not n.task.i and n.task.part > 1)
    assert stored.after
    nodes[stored.number] = stored._replace(after=())
    with pytest.raises(GraphError):
        check_order(graph.buffers, nodes)


def test_no_two_tasks_have_one_name() -> None:
    graph = rolling_graph("rolling", problem_of(REQUESTS), ROLLING["host"])
    assert max(Counter(task.name for task in graph.tasks()).values()) == 1
