"""The proof of a graph: executed on names instead of numbers, it computes what the mathematics asks, and nothing else.

laws        Every layer of every token of every micro-batch once, in order; what a sweep leaves behind.
meanings    What a task of each kind needs, and what it makes of it: the bytes and the values in them.
proof       `Proof`: sweep after sweep; `proved` and `prove` for a whole graph.
repeats     Sweeps that repeat the one before, which are proved once.
seating     The laws of a rolling graph: seats, and what each pass leaves in the cache.
values      The names of what bytes hold, and a memory that holds names.
"""

from flexplan.proof.proof import Proof, named_lines, prove, proved
from flexplan.proof.seating import SeatingLaws

__all__ = ["Proof", "SeatingLaws", "named_lines", "prove", "proved"]
