"""Schedules: the verbs that write tasks, and the order of one pass over the layers.

cache         The verbs of keys and values.
compute_work  The work of compute tasks, for equal ones once.
emitter       What the verbs share: passes, turns, and the tasks they write.
hidden        The verbs of token ids, rows of the token table and hidden states.
one_layout    The bytes of a graph are those that a runtime uses.
protocol      The `Schedule` protocol.
traversal     One pass over the layers, written once; schedules differ in which passes they make.
verbs         `Verbs`: all of them, and the two halves of compute.
weights       The verbs of weights: to the gpu by chunks, unpacked there once a pass.
"""

from flexplan.schedule.one_layout import placement_of
from flexplan.schedule.protocol import Schedule
from flexplan.schedule.traversal import graph_of

__all__ = [
    "Schedule",
    "graph_of",
    "placement_of",
]
