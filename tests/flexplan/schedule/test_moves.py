"""Rows that outgrow their seats: they move to larger ones with all that they have, and little is reserved in vain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexplan.errors import GraphError
from flexplan.graph import Sweep, Task, TaskGraph, check_graph, check_order, never
from flexplan.placement import Placement
from flexplan.policy import Policy, rolling_block
from flexplan.problem import Problem, Workload
from flexplan.problem.prompts import read_lengths
from flexplan.proof import SeatingLaws
from flexplan.schedule import Boarding, Guest, Move, Seats, columns_moved, rolling_graph
from flexplan.testing import policy_with, small_shape

CONVERSATION = Path(__file__).parent / "conversation.csv"
REQUESTS = [(3, 4), (2, 7), (7, 2), (3, 6), (2, 6), (5, 1), (9, 3), (1, 5), (4, 4), (6, 2)] * 2
MOVING = {
    "gpu": Policy(3, 3, room_percent=30),
    "host": policy_with(3, 3, w=(0, 100), cache=(0, 100), cpu_cache_compute=True, room_percent=30),
    "between": policy_with(3, 4, w=(0, 100), cache=(40, 60), cpu_cache_compute=True, sep_layer=False, room_percent=20),
    "packed": policy_with(
        3, 3, w=(0, 100), cache=(50, 50), cpu_cache_compute=True, compress_cache=True, room_percent=30
    ),
    "inline": policy_with(3, 4, w=(30, 30), cache=(30, 70), overlap=False, cpu_cache_compute=True, room_percent=20),
}


def problem() -> Problem:
    lens, most = zip(*REQUESTS, strict=True)
    return Problem.of(small_shape(), gpu_mem="8G", cpu_mem="8G", disk_mem="8G", prompt_lens=lens, gen_lens=most)


def graph_of(name: str) -> TaskGraph:
    return rolling_graph("rolling", problem(), MOVING[name])


def laws_of(name: str) -> SeatingLaws:
    block = rolling_block(problem().workload, MOVING[name])
    return SeatingLaws(Placement.of(small_shape(), MOVING[name], block))


@pytest.mark.parametrize("name", MOVING)
def test_every_pass_in_which_rows_move_is_proved(name: str) -> None:
    check_graph(graph_of(name), problem().budgets())
    laws = laws_of(name)
    for sweep in graph_of(name).sweeps():
        laws.take(sweep)


def test_rows_move_between_all_tiers() -> None:
    kinds = {task.kind for name in MOVING for task in graph_of(name).tasks()}
    assert {"move_gpu", "move_cpu", "move_up", "move_down"} <= kinds


def test_no_two_tasks_have_one_name() -> None:
    assert max(Counter(task.name for task in graph_of("between").tasks()).values()) == 1


@pytest.mark.parametrize(("was_room", "now_room", "tokens"), [(4, 7, 4), (5, 6, 3), (6, 11, 6), (3, 9, 1)])
@pytest.mark.parametrize("number", [3, 8, 21])
def test_each_token_goes_to_the_column_of_its_pass(was_room: int, now_room: int, tokens: int, number: int) -> None:
    was = Guest(0, 0, 0, number - 1, tokens, 9)
    assert was.context(number) == tokens + 1
    found = list(columns_moved(Move(was, was._replace(k=1)), number, was_room, now_room))
    moved = [(column + n, to + n) for column, to, count in found for n in range(count)]
    assert moved == [(at % was_room, at % now_room) for at in range(number - tokens, number)]


# -- mutations -----------------------------------------------------------------------------------------------------
def moving(name: str = "between") -> int:
    """The first pass in which somebody moves, and others decode."""
    found = (n for n, sweep in enumerate(graph_of(name).sweeps()) if sweep.boarding.moves)
    return next(found)


def refused(change: Callable[[Sweep], Sweep], name: str = "between") -> str:
    laws, sweeps, at = laws_of(name), list(graph_of(name).sweeps()), moving(name)
    for sweep in sweeps[:at]:
        laws.take(sweep)
    with pytest.raises(GraphError, match="FP833") as error:
        laws.take(change(sweeps[at]))
    return str(error.value)


def with_boarding(sweep: Sweep, **changes: Any) -> Sweep:
    return Sweep(sweep.i, sweep.ks, sweep.tasks, boarding=replace(sweep.boarding, **changes))


def with_tasks(sweep: Sweep, tasks: list[Task]) -> Sweep:
    return Sweep(sweep.i, sweep.ks, tasks, boarding=sweep.boarding)


def decodes_where_it_was(sweep: Sweep) -> Sweep:
    boarding: Boarding = sweep.boarding
    was, now = boarding.moves[0]
    guests = {k: tuple(g for g in some if g != now) for k, some in boarding.guests.items()}
    guests[was.k] = (*guests.get(was.k, ()), was)
    return with_boarding(sweep, guests=guests)


def moves_to_a_taken_seat(sweep: Sweep) -> Sweep:
    (was, now), *others = sweep.boarding.moves
    taken = next(g for some in sweep.boarding.guests.values() for g in some if g not in (now, *(m.now for m in others)))
    return with_boarding(sweep, moves=(Move(was, was._replace(k=taken.k, row=taken.row)), *others))


def moves_a_token_short(sweep: Sweep) -> Sweep:
    (was, now), *others = sweep.boarding.moves
    return with_boarding(sweep, moves=(Move(was, now._replace(prompt_len=now.prompt_len - 1)), *others))


def nobody_moves_its_cache(sweep: Sweep) -> Sweep:
    first = next(task for task in sweep.tasks if task.kind.startswith("move_") and task.j)
    return with_tasks(sweep, [task for task in sweep.tasks if task is not first])


def moves_to_another_home(sweep: Sweep) -> Sweep:
    first = next(task for task in sweep.tasks if task.kind.startswith("move_") and task.j)
    (home,) = first.writes
    wrong = first._replace(writes=(home._replace(index=home.index + 1),))
    return with_tasks(sweep, [wrong if task is first else task for task in sweep.tasks])


def moves_after_attention(sweep: Sweep) -> Sweep:
    first = next(task for task in sweep.tasks if task.kind.startswith("move_") and task.j)
    return with_tasks(sweep, [*(task for task in sweep.tasks if task is not first), first])


def goes_on_with_the_token_of_another(sweep: Sweep) -> Sweep:
    was = sweep.boarding.moves[0].was
    tasks = [
        t._replace(reads=tuple(a for a in t.reads if a.buffer != "outputs" or a.lo != was.row * 8 or a.hi - a.lo > 8))
        if t.kind == "gather"
        else t
        for t in sweep.tasks
    ]
    return with_tasks(sweep, tasks)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (decodes_where_it_was, "never came in"),
        (moves_to_a_taken_seat, "a seat that is taken"),
        (moves_a_token_short, "is another"),
        (nobody_moves_its_cache, "its homes are"),
        (moves_to_another_home, "its homes are"),
        (moves_after_attention, "at work on what it moves"),
        (goes_on_with_the_token_of_another, "not looked up"),
    ],
)
def test_a_wrong_move_is_found(change: Callable[[Sweep], Sweep], says: str) -> None:
    assert says in refused(change)


def test_a_move_before_the_last_token_is_stored_is_found() -> None:
    """The pass before stores it in another lane."""
    graph = graph_of("host")
    nodes = list(graph.nodes())
    moved = next(n for n in nodes if n.task.kind == "move_cpu")
    assert moved.after
    nodes[moved.number] = moved._replace(after=())
    with pytest.raises(GraphError, match=r"move_cpu.* without waiting"):
        check_order(graph.buffers, nodes)


# -- what it is worth ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [7, 9])
def test_nine_tenths_of_what_seats_reserve_are_in_use(rows: int) -> None:
    """Requests of a real service, while all seats are taken; few of their tokens are computed again."""
    found = read_lengths(CONVERSATION)
    work = Workload(prompt_lens=found.prompt_lens, gen_lens=found.gen_lens)
    policy = Policy(rows, 16, room_percent=35)
    block = rolling_block(work, policy)
    boardings = [one for one in Seats(block, work, policy, found.gen_lens).boardings(never) if not one.waits]
    reserved = sum(batch.num_rows * batch.prompt_len for batch in block.batches)
    full = [n for n, one in enumerate(boardings) if sum(map(len, one.guests.values())) >= 0.95 * block.num_rows]
    steady = boardings[full[0] : full[-1] + 1]
    assert len(steady) > len(boardings) / 2
    assert sum(sum(one.contexts.values()) for one in steady) >= 0.9 * len(steady) * reserved
    again = sum(g.prompt_len for one in boardings for some in one.newcomers.values() for g in some if g.had)
    assert again < 0.5 * sum(found.prompt_lens)
