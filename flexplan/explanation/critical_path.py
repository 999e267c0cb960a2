"""The critical path of a decoding pass: the tasks that no lane can hide, and how much longer the others may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from flexplan.cost import Rates
from flexplan.graph import TaskGraph
from flexplan.placement import fewer_layers
from flexplan.policy import Policy
from flexplan.problem import Problem, Workload
from flexplan.schedule import Schedule
from flexplan.simulation import simulate_graph

_FEW_LAYERS = 4
_FEW_TOKENS = 3  # the prompt, the pass that is looked at, and one after it
_PASS = 1
_END = ""  # of the pass: no task has this name


@dataclass(frozen=True, slots=True)
class CriticalPath:
    """One pass of ``num_layers`` layers, as simulated: ``path_s`` are the seconds of its longest path, by lane.

    ``slack_s`` is, by lane, how much longer all its tasks together may take before the path becomes longer;
    ``task_slack_s`` how much longer one of them alone may, in the mean: also the lanes on the path have tasks off it.
    """

    num_layers: int
    path_s: Mapping[str, float]
    slack_s: Mapping[str, float]
    task_slack_s: Mapping[str, float]

    @property
    def total_s(self) -> float:
        """Seconds of the path."""
        return sum(self.path_s.values())

    def percents(self, lane: str) -> tuple[float, float, float]:
        """A lane's part of the path, and its two slacks as parts of the path."""
        path, slack, task_slack = (
            100 * seconds.get(lane, 0.0) / (self.total_s or 1.0)
            for seconds in (self.path_s, self.slack_s, self.task_slack_s)
        )
        return path, slack, task_slack

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        names = ("path_percent", "slack_percent", "task_slack_percent")
        lanes = {lane: dict(zip(names, self.percents(lane), strict=True)) for lane in self.slack_s}
        return {"num_layers": self.num_layers, "path_s": self.total_s, "lanes": lanes}


def critical_path_of(
    problem: Problem, policy: Policy, schedule: Schedule, lens: tuple[int, ...]
) -> CriticalPath | None:
    """Of the decoding pass half-way through the output of a block with these prompts; None where there is none.

    Layers are alike, so a few of them show what a pass waits for.
    """
    decoded = problem.workload.gen_len - 1
    if not decoded:
        return None
    middle = tuple(length + (decoded - 1) // 2 for length in lens)
    workload = Workload(prompt_lens=middle, gen_len=problem.workload.gen_len)
    least = max(_FEW_LAYERS, problem.model.layer_period)  # of every kind one
    num_layers = fewer_layers(problem.model.num_layers, policy, min(least, problem.model.num_layers))
    part = problem.model_copy(update={"workload": workload}).with_layers(num_layers).with_most_tokens(_FEW_TOKENS)
    graph = schedule.build(part, policy)
    seconds = {span.name: span.end_s - span.start_s for span in simulate_graph(graph, Rates(problem.hardware)).spans}
    decoding = next(sweep for sweep in graph.sweeps() if sweep.i == _PASS)
    return critical_path(TaskGraph.of(graph.schedule, graph.live, graph.buffers, [decoding]), seconds, num_layers)


def critical_path(graph: TaskGraph, seconds: Mapping[str, float], num_layers: int) -> CriticalPath:
    """Of a graph whose tasks take so many seconds, by name."""
    view = graph.to_networkx()
    lanes = {name: task.lane for name, task in view.nodes(data="task")}
    path_s: dict[str, float] = {}
    for name in _longest_path(view, seconds):
        path_s[lanes[name]] = path_s.get(lanes[name], 0.0) + seconds[name]
    free_s: dict[str, list[float]] = {lane: [] for lane in lanes.values()}
    for name, free in _slack(view, seconds).items():
        free_s[lanes[name]].append(free)
    slack_s = {lane: 0.0 if lane in path_s else min(free) for lane, free in free_s.items()}
    return CriticalPath(num_layers, path_s, slack_s, {lane: mean(free) for lane, free in free_s.items()})


def _longest_path(view: Any, seconds: Mapping[str, float]) -> list[str]:
    """The names of its tasks; networkx counts edges, so each is as long as the task that it leaves."""
    import networkx

    timed = networkx.DiGraph()
    timed.add_weighted_edges_from((a, b, seconds[a]) for a, b in view.edges)
    timed.add_weighted_edges_from((name, _END, seconds[name]) for name in view)
    return list(networkx.dag_longest_path(timed))[:-1]


def _slack(view: Any, seconds: Mapping[str, float]) -> dict[str, float]:
    """How much longer each task may take by itself: what the longest path through it lacks to the longest of all."""
    import networkx

    order = list(networkx.topological_sort(view))
    until, after = dict[str, float](), dict[str, float]()
    for name in order:
        until[name] = seconds[name] + max((until[other] for other in view.predecessors(name)), default=0.0)
    for name in reversed(order):
        after[name] = max((seconds[other] + after[other] for other in view.successors(name)), default=0.0)
    total_s = max(until.values())
    return {name: max(0.0, total_s - until[name] - after[name]) for name in order}
