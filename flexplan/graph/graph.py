"""The task graph: what a schedule writes, a simulator times and a runtime executes.

Edges are not drawn by hand.  A task names what it reads and writes, (buffer, index, bytes); the slot is
``index mod slots``.  Executed one after the other in the order of the graph, every read sees the last
write before it; ``Tracker`` derives from that the edges which keep it so when lanes run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flexplan.graph.edges import Tracker
from flexplan.graph.tasks import Buffer, Node, Sweep, Task
from flexplan.graph.text import graph_lines, parse_graph

Finished = Callable[[int], bool]  # has every row of micro-batch k stopped?


def never(k: int) -> bool:
    """No micro-batch stops early."""
    return False


@dataclass(frozen=True, repr=False)
class TaskGraph:
    """The buffers, and an iterator of sweeps; a sweep is made when it is asked for."""

    schedule: str
    live: int  # micro-batches in flight at a time
    buffers: Mapping[str, Buffer]
    make: Callable[[Finished], Iterator[Sweep]] = field(compare=False)

    def __repr__(self) -> str:
        return f"TaskGraph({self.schedule!r}, {self.live} micro-batches in flight, {len(self.buffers)} buffers)"

    def sweeps(self, finished: Finished = never) -> Iterator[Sweep]:
        """The sweeps in order; ``finished`` is asked before each, so a block that stopped ends."""
        return self.make(finished)

    def tasks(self) -> Iterator[Task]:
        """All tasks in order."""
        for sweep in self.sweeps():
            yield from sweep.tasks

    def nodes(self) -> Iterator[Node]:
        """All tasks with their edges."""
        tracker = Tracker(self.buffers)
        for sweep in self.sweeps():
            yield from tracker.nodes(sweep)

    def arena_bytes(self) -> dict[str, int]:
        """Bytes of each arena: the end of its last buffer."""
        sizes: dict[str, int] = {}
        for buffer in self.buffers.values():
            end = max((o + s for o, s in zip(buffer.offsets, buffer.sizes, strict=True)), default=0)
            sizes[buffer.arena] = max(sizes.get(buffer.arena, 0), end)
        return sizes

    def to_networkx(self) -> Any:
        """A networkx DiGraph of task names, for analysis; edges include the order of each lane."""
        import networkx

        view = networkx.DiGraph()
        names: list[str] = []
        last: dict[str, str] = {}  # lane -> its task before
        for node in self.nodes():
            name = node.task.name
            view.add_node(name, task=node.task)
            view.add_edges_from((names[n], name) for n in node.after)
            if node.task.lane in last:
                view.add_edge(last[node.task.lane], name)
            last[node.task.lane] = name
            names.append(name)
        return view

    def to_text(self) -> str:
        """One line a buffer, sweep and task; ``from_text`` reads it back."""
        return "\n".join(graph_lines(self.schedule, self.live, self.buffers, self.sweeps())) + "\n"

    @classmethod
    def from_text(cls, text: str) -> TaskGraph:
        """The graph that ``to_text`` wrote; a line that does not parse raises GraphError with its number."""
        return cls.of(*parse_graph(text))

    @classmethod
    def of(cls, schedule: str, live: int, buffers: Mapping[str, Buffer], sweeps: list[Sweep]) -> TaskGraph:
        """A graph whose sweeps are known."""
        return cls(schedule, live, buffers, lambda finished: (s for s in sweeps if not all(map(finished, s.ks))))

    def to_json(self) -> dict[str, Any]:
        """The graph as plain data."""
        return {"schedule": self.schedule, "graph": self.to_text().splitlines()}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> TaskGraph:
        """The graph that ``to_json`` gave."""
        return cls.from_text("\n".join(given["graph"]))
