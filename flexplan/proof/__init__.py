"""The proof of a graph: executed on names instead of numbers, it computes what the mathematics asks, and nothing else.

laws        Every layer of every token of every micro-batch once, in order; what a sweep leaves behind.
meanings    What a task of each kind needs, and what it makes of it: the bytes and the values in them.
proof       `Proof`: sweep after sweep; `proved` and `prove` for a whole graph.
repeats     Sweeps that repeat the one before, which are proved once.
values      The names of what bytes hold, and a memory that holds names.
"""

from flexplan.proof.proof import Proof, named_lines, prove, proved

__all__ = ["Proof", "named_lines", "prove", "proved"]
