"""The task graph, the contract of planners and runtimes: its words, its edges, its proof, its timeline.

checker   The independent proof that a graph fits its budgets and never reads wrong bytes.
edges     The edges that follow from what tasks read and write.
graph     `TaskGraph`: buffers and an iterator of sweeps.
kinds     What a task can be, on which lane it runs, which tier an arena is charged to.
tasks     Accesses, work, tasks, sweeps and buffers.
text      The text form of a graph, written and read back.
timeline  `Timeline`, of the simulator and of the runtime alike; Chrome traces.
"""

from flexplan.graph.checker import check_accesses, check_budgets, check_graph, check_memory, check_order
from flexplan.graph.edges import Tracker
from flexplan.graph.graph import Finished, TaskGraph, never
from flexplan.graph.kinds import (
    CPU,
    D2H,
    DISK_READ,
    DISK_WRITE,
    GPU,
    H2D_CACHE,
    H2D_SMALL,
    H2D_WEIGHTS,
    HOST_COPY,
    INLINE,
    KINDS,
    LANES,
    TIERS,
    natural_lane,
    tier_of,
)
from flexplan.graph.tasks import NOTHING, Access, Buffer, Node, Sweep, Task, Work
from flexplan.graph.timeline import Span, Timeline

__all__ = [
    "CPU",
    "D2H",
    "DISK_READ",
    "DISK_WRITE",
    "GPU",
    "H2D_CACHE",
    "H2D_SMALL",
    "H2D_WEIGHTS",
    "HOST_COPY",
    "INLINE",
    "KINDS",
    "LANES",
    "NOTHING",
    "TIERS",
    "Access",
    "Buffer",
    "Finished",
    "Node",
    "Span",
    "Sweep",
    "Task",
    "TaskGraph",
    "Timeline",
    "Tracker",
    "Work",
    "check_accesses",
    "check_budgets",
    "check_graph",
    "check_memory",
    "check_order",
    "natural_lane",
    "never",
    "tier_of",
]
