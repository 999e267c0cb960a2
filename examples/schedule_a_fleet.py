"""Jobs to machines by predicted seconds, so that the last one ends early: the planner inside another scheduler.

    python examples/schedule_a_fleet.py examples/fleet.toml

Which machine is the faster one depends on the job: a model that fits a small GPU runs well there, one that
streams its weights wants a fast link, one with long prompts a fast GPU.  flexplan predicts the seconds of every
job on every machine; the assignment starts from the longest job and is improved by moving and swapping.
Beside it stand two schedulers that do not ask: first-fit, a queue whose next job goes to the machine that is
free first and holds it, and round-robin.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf
from pathlib import Path
from typing import Any

from flexplan import InfeasiblePlan, Problem, solve

Seconds = Sequence[Sequence[float]]  # of job j on machine m; inf where it does not fit
Assignment = list[int]  # the machine of each job


@dataclass(frozen=True)
class Fleet:
    """What there is to run on, and what there is to run."""

    machines: list[dict[str, Any]]
    jobs: list[dict[str, Any]]

    @classmethod
    def load(cls, path: Path) -> Fleet:
        """The fleet of a TOML file; hardware files lie beside it."""
        found = tomllib.loads(path.read_text())
        for machine in found["machine"]:
            beside = path.parent / machine["hardware"]
            machine["hardware"] = str(beside) if beside.exists() else machine["hardware"]
        return cls(found["machine"], found["job"])


# -- what flexplan says --------------------------------------------------------------------------------------------
def predicted_seconds(fleet: Fleet) -> list[list[float]]:
    """Seconds of each job on each machine."""
    return [[seconds_on(job, machine) for machine in fleet.machines] for job in fleet.jobs]


def seconds_on(job: dict[str, Any], machine: dict[str, Any]) -> float:
    """How long a job takes on a machine by the best plan there; inf where nothing fits."""
    asked = {key: value for key, value in (job | machine).items() if key != "name"}
    try:
        return solve(Problem.of(**asked), planner="lp").prediction.total_s
    except InfeasiblePlan:
        return inf


# -- assignments ---------------------------------------------------------------------------------------------------
def loads(assignment: Assignment, seconds: Seconds) -> list[float]:
    """When each machine is done."""
    found = [0.0] * len(seconds[0])
    for job, machine in enumerate(assignment):
        found[machine] += seconds[job][machine]
    return found


def makespan(assignment: Assignment, seconds: Seconds) -> float:
    """When the last machine is done."""
    return max(loads(assignment, seconds))


def first_fit(seconds: Seconds) -> Assignment:
    """In the order of the list: the machine that is free first, of those that hold the job."""
    done, found = [0.0] * len(seconds[0]), []
    for row in seconds:
        machine = min(fitting(row), key=lambda m: done[m])
        done[machine] += row[machine]
        found.append(machine)
    return found


def round_robin(seconds: Seconds) -> Assignment:
    """In the order of the list: the next machine, of those that hold the job."""
    found, turn = [], 0
    for row in seconds:
        while turn % len(row) not in fitting(row):
            turn += 1
        found.append(turn % len(row))
        turn += 1
    return found


def by_prediction(seconds: Seconds) -> Assignment:
    """The job that is longest even where it runs best comes first, to where it ends first; then improved."""
    done, found = [0.0] * len(seconds[0]), [0] * len(seconds)
    for job in sorted(range(len(seconds)), key=lambda j: -min(seconds[j])):
        machine = min(fitting(seconds[job]), key=lambda m: done[m] + seconds[job][m])
        done[machine] += seconds[job][machine]
        found[job] = machine
    starts = (found, first_fit(seconds), round_robin(seconds))
    return min((improved(start, seconds) for start in starts), key=lambda a: makespan(a, seconds))


def improved(assignment: Assignment, seconds: Seconds) -> Assignment:
    """One move or swap at a time, while the loads, from the longest down, get smaller."""

    def order(a: Assignment) -> list[float]:
        return sorted(loads(a, seconds), reverse=True)

    while True:
        best = min(neighbours(assignment, len(seconds[0])), key=order)
        if order(best) >= order(assignment):
            return assignment
        assignment = best


def neighbours(assignment: Assignment, num_machines: int) -> Iterator[Assignment]:
    """One job elsewhere, or two jobs that change places."""
    for job, machine in enumerate(assignment):
        for other in range(num_machines):
            if other != machine:
                yield [*assignment[:job], other, *assignment[job + 1 :]]
    for a, b in combinations(range(len(assignment)), 2):
        swapped = list(assignment)
        swapped[a], swapped[b] = swapped[b], swapped[a]
        yield swapped


def fitting(row: Sequence[float]) -> list[int]:
    """The machines that hold a job."""
    return [machine for machine, seconds in enumerate(row) if seconds < inf]


# -- what is printed -----------------------------------------------------------------------------------------------
def table(fleet: Fleet, seconds: Seconds) -> Iterator[str]:
    """Predicted seconds, the chosen machine starred, and the makespan of the three."""
    chosen = by_prediction(seconds)
    yield f"{'seconds of':20}" + "".join(f"{machine['name']:>12}" for machine in fleet.machines)
    for job, row, machine in zip(fleet.jobs, seconds, chosen, strict=True):
        cells = (f"{s:.1f}{'*' if m == machine else ' '}" if s < inf else "- " for m, s in enumerate(row))
        yield f"{job['name']:20}" + "".join(f"{cell:>12}" for cell in cells)
    yield ""
    for name, found in (("first-fit", first_fit), ("round-robin", round_robin), ("by prediction", by_prediction)):
        assignment = found(seconds)
        busy = "".join(f"{load:>11.1f} " for load in loads(assignment, seconds))
        yield f"{name:20}{busy}   done after {makespan(assignment, seconds):.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fleet", type=Path, nargs="?", default=Path(__file__).parent / "fleet.toml")
    fleet = Fleet.load(parser.parse_args().fleet)
    seconds = predicted_seconds(fleet)
    for job, row in zip(list(fleet.jobs), seconds, strict=True):
        if not fitting(row):
            raise SystemExit(f"{job['name']}: fits none of the machines")
    print(*table(fleet, seconds), sep="\n")


if __name__ == "__main__":
    main()
