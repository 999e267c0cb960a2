"""Schedules: the verbs that write tasks, and the order of one pass over the layers.

cache         The verbs of keys and values.
compute_work  The work of compute tasks, for equal ones once.
emitter       What the verbs share: passes, turns, and the tasks they write.
experts       The verbs of experts on demand: what the router chose is sent once it has.
hidden        The verbs of token ids, rows of the token table and hidden states.
lesser_seats  Seats without what makes a schedule roll, for comparison.
moves         What the cache holds of a guest goes with it to a larger seat.
one_layout    The bytes of a graph are those that a runtime uses.
protocol      The `Schedule` protocol, and what a graph of a schedule is for.
rolling       A pass of the rolling schedule: seats decode, newcomers' prompts go through the same layers.
seats         Which request sits where in which pass, and who comes in.
traversal     One pass over the layers, written once; schedules differ in which passes they make.
verbs         `Verbs`: all of them, and the two halves of compute.
weights       The verbs of weights: to the gpu by chunks, unpacked there once a pass.
"""

from flexplan.schedule.lesser_seats import Gathered, NotRefilled, prompts_apart
from flexplan.schedule.moves import columns_moved, heads_moved
from flexplan.schedule.one_layout import placement_of
from flexplan.schedule.protocol import Schedule, first_block, rolls
from flexplan.schedule.rolling import refuse_to_roll, rolling_graph, sweep_of_boarding
from flexplan.schedule.seats import Boarding, Guest, Move, Seats
from flexplan.schedule.traversal import graph_of

__all__ = [
    "Boarding",
    "Gathered",
    "Guest",
    "Move",
    "NotRefilled",
    "Schedule",
    "Seats",
    "columns_moved",
    "first_block",
    "graph_of",
    "heads_moved",
    "placement_of",
    "prompts_apart",
    "refuse_to_roll",
    "rolling_graph",
    "rolls",
    "sweep_of_boarding",
]
