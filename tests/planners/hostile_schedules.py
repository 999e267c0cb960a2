"""Schedules that break every promise, and three that keep them: tests install them as a package."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path
from typing import Any

from flexplan.errors import InfeasiblePlan, StorageError
from flexplan.graph import Buffer, Sweep, Task, TaskGraph, Work
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.schedule import graph_of

Change = Callable[[list[Task]], Any]


def honest(problem: Problem, policy: Policy) -> TaskGraph:
    """Token by token, all micro-batches."""

    def passes(block: Any) -> list[tuple[int, range]]:
        return [(i, range(len(block.batches))) for i in range(block.gen_len)]

    return graph_of("honest", problem, policy, passes)


def with_tasks(graph: TaskGraph, change: Change) -> TaskGraph:
    """The graph with other tasks in every pass."""

    def make(finished: Callable[[int], bool]) -> Iterator[Sweep]:
        for sweep in graph.make(finished):
            yield Sweep(sweep.i, sweep.ks, change(list(sweep.tasks)))

    return replace(graph, make=make)


def each(change: Callable[[Task], Task]) -> Change:
    return lambda tasks: [change(task) for task in tasks]


class Honest:
    """What all others begin with; ``changed`` is what they do to it."""

    def build(self, problem: Problem, policy: Policy) -> Any:
        return self.changed(honest(problem, policy))

    def changed(self, graph: TaskGraph) -> Any:
        return graph


class Chatty(Honest):
    """Honest, but prints."""

    def changed(self, graph: TaskGraph) -> TaskGraph:
        print('{"schedule": "another"}')
        os.write(1, b"and more\n")
        return graph


class LeavesAChild(Honest):
    """Honest, but leaves a process behind, which writes down its number."""

    def changed(self, graph: TaskGraph) -> TaskGraph:
        pids = Path(os.environ["PIDS_OF_HOSTILE"])
        if not pids.exists():
            sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
            pids.write_text(str(sleeper.pid))
        return graph


class KillsItsSupervisor(LeavesAChild):
    """Leaves a process behind, and kills the one that would end it."""

    def changed(self, graph: TaskGraph) -> TaskGraph:
        super().changed(graph)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
        return graph


# -- that end it, or never end ---------------------------------------------------------------------------------------
class BuildsForEver(Honest):
    def build(self, problem: Problem, policy: Policy) -> Any:
        while True:
            time.sleep(0.01)


class PassesForEver(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        first = next(iter(graph.sweeps()))
        return replace(graph, make=lambda finished: repeat(first))


class TasksForEver(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, lambda tasks: repeat(tasks[0]))


class TooManyTasks(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, lambda tasks: 1000 * tasks)


class Raises(Honest):
    def changed(self, graph: TaskGraph) -> None:
        raise RuntimeError("on purpose")


class RaisesLater(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, lambda tasks: (1 // 0 for _ in tasks))


class RaisesOurs(Honest):
    def changed(self, graph: TaskGraph) -> None:
        raise StorageError("FP604", "the disk is broken", fix="buy another")


class Refuses(Honest):
    def changed(self, graph: TaskGraph) -> None:
        raise InfeasiblePlan("FP402", "too large for me", binding=(1, None))  # type: ignore[arg-type]


class Exits(Honest):
    def changed(self, graph: TaskGraph) -> None:
        sys.exit(0)


class Dies(Honest):
    def changed(self, graph: TaskGraph) -> None:
        os._exit(0)


class DiesLater(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, lambda tasks: (os._exit(0) for _ in tasks))


class Hogs(Honest):
    """Takes memory without touching it, as far as it is let."""

    def changed(self, graph: TaskGraph) -> TaskGraph:
        self.held = [mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(12)]
        return graph


class Scribbles(Honest):
    """Writes to whatever may be the pipe of the answer."""

    def changed(self, graph: TaskGraph) -> TaskGraph:
        for descriptor in range(3, 100):
            with suppress(OSError):
                os.write(descriptor, b'{"sweeps": []}\n')
        return graph


# -- that are no graphs ----------------------------------------------------------------------------------------------
class Nothing(Honest):
    def changed(self, graph: TaskGraph) -> None:
        return None


class NoPasses(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        return replace(graph, make=lambda finished: iter(()))


class NotPlain(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, each(lambda task: task._replace(j=object())))


class Fractions(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, each(lambda task: task._replace(j=task.j + 0.5)))


class OfAKindOfItsOwn(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, each(lambda task: task._replace(kind="frobnicate")))


class OnALaneOfItsOwn(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, each(lambda task: task._replace(lane="fast_lane")))


class WorksNan(Honest):
    flops = float("nan")

    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, each(lambda task: task._replace(work=Work(gpu_flops=self.flops))))


class WorksWithoutEnd(WorksNan):
    flops = float("inf")


class WorksLessThanNothing(WorksNan):
    flops = -1e30


class OutsideItsSlot(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        def further(task: Task) -> Task:
            return task._replace(reads=tuple(access._replace(hi=1 << 50) for access in task.reads))

        return with_tasks(graph, each(further))


class NobodyInFlight(Honest):
    live = 0

    def changed(self, graph: TaskGraph) -> TaskGraph:
        return replace(graph, live=self.live)


class MillionsInFlight(NobodyInFlight):
    live = 10**9


class Elsewhere(Honest):
    """Changes one buffer."""

    def changed(self, graph: TaskGraph) -> TaskGraph:
        name, buffer = next(iter(graph.buffers.items()))
        return replace(graph, buffers={**graph.buffers, name: self.moved(buffer)})

    def moved(self, buffer: Buffer) -> Buffer:
        return replace(buffer, arena="attic.work")


class WithoutSlots(Elsewhere):
    def moved(self, buffer: Buffer) -> Buffer:
        return replace(buffer, offsets=(), sizes=())


class BelowZero(Elsewhere):
    def moved(self, buffer: Buffer) -> Buffer:
        return replace(buffer, offsets=tuple(offset - (1 << 40) for offset in buffer.offsets))


class BeyondTheBudget(Elsewhere):
    def moved(self, buffer: Buffer) -> Buffer:
        return replace(buffer, offsets=tuple(offset + (1 << 45) for offset in buffer.offsets))


# -- that compute something else -------------------------------------------------------------------------------------
class TooEarly(Honest):
    """All weights before anything else: more than the ring has room for."""

    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, lambda tasks: sorted(tasks, key=lambda task: not task.kind.endswith("_weight")))


class SkipsALayer(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, lambda tasks: [task for task in tasks if (task.kind, task.j) != ("compute", 2)])


class RepeatsALayer(Honest):
    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(
            graph, lambda tasks: [x for task in tasks for x in (1 + ((task.kind, task.j) == ("compute", 2))) * [task]]
        )


class FewerInFlight(Honest):
    """Counts the memory of all micro-batches, and says that there is one."""

    def changed(self, graph: TaskGraph) -> TaskGraph:
        return replace(graph, live=1)


class LiesWhereItMatters(SkipsALayer):
    """Honest on what a test would try."""

    def build(self, problem: Problem, policy: Policy) -> TaskGraph:
        graph = honest(problem, policy)
        small = problem.model.num_layers < 4 or problem.workload.gen_len < 8
        return graph if small else self.changed(graph)


class Undeclared(Honest):
    """Computes without saying what it reads."""

    def changed(self, graph: TaskGraph) -> TaskGraph:
        return with_tasks(graph, each(lambda task: task._replace(reads=()) if task.kind == "compute" else task))


class Forgets(Honest):
    """Another graph each time it is asked."""

    turns = count(1)

    def changed(self, graph: TaskGraph) -> TaskGraph:
        return replace(graph, schedule=f"forgets{next(self.turns)}")


def install(folder: Path) -> None:
    """A package whose schedules are ``hostile-Raises`` and so on, and two that do not even load."""
    (folder / "hostile_schedules.py").write_text(Path(__file__).read_text())
    (folder / "hostile_at_import.py").write_text("import os\nos._exit(0)\n")
    info = folder / "hostile-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 0.1\n")
    names = [name for name, found in globals().items() if isinstance(found, type) and issubclass(found, Honest)]
    points = [f"hostile-{name} = hostile_schedules:{name}" for name in names]
    points += ["hostile-missing = hostile_schedules:Missing", "hostile-import = hostile_at_import:Schedule"]
    (info / "entry_points.txt").write_text("\n".join(["[flexplan.schedules]", *points]))
