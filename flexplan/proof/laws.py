"""Laws of a whole graph: every layer of every token of every micro-batch once, in order, sweep by sweep.

Some of what a step does is in no buffer (the position of its rows, which of them have stopped, what was drawn so far),
so that steps of a micro-batch are taken in the one order that the mathematics has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flexplan.graph import Finished, Sweep, Task

Begins = Callable[[int, int, int], bool]


class Broken(Exception):
    """A law does not hold; the argument says which."""


class Laws:
    """How far every micro-batch is: its next token, its next layer, and whether that layer's step is half done."""

    def __init__(self, num_layers: int, num_batches: int, gen_len: int, begins: Begins) -> None:
        self.num_layers = num_layers
        self.gen_len = gen_len
        self.begins = begins
        self.tokens = [0] * num_batches
        self.layers = [0] * num_batches
        self.begun = [False] * num_batches

    def begin(self, sweep: Sweep) -> None:
        """A sweep is for the next token of each of its micro-batches."""
        ks: Sequence[int] = sweep.ks
        if not ks or len(set(ks)) != len(ks) or not all(type(k) is int and 0 <= k < len(self.tokens) for k in ks):
            raise Broken(f"its micro-batches {_shown(ks)} are not some of the block's {len(self.tokens)}, each once")
        for k in ks:
            if type(sweep.i) is not int or sweep.i != self.tokens[k] or sweep.i >= self.gen_len:
                due = f"{self.tokens[k]} of {self.gen_len}"
                raise Broken(f"it is not for the next token of micro-batch {k}, which is {due}")

    def step(self, sweep: Sweep, task: Task) -> None:
        """A task that computes is the next of its micro-batch, and of this sweep."""
        k = task.k
        if k not in sweep.ks:
            raise Broken(f"micro-batch {k} is not in its sweep")
        if (task.i, task.j) != (self.tokens[k], self.layers[k]):
            raise Broken(f"the next step of micro-batch {k} is token {self.tokens[k]}, layer {self.layers[k]}")
        halves = self.begins(task.i, task.j, k)
        if task.kind == "project":
            if self.begun[k]:
                raise Broken("the first half of its step is done")
            self.begun[k] = True
            return
        if halves and not self.begun[k]:
            raise Broken("the first half of its step is missing")
        self.begun[k] = False
        self.layers[k] += 1
        if self.layers[k] == self.num_layers:
            self.tokens[k], self.layers[k] = self.tokens[k] + 1, 0

    def end(self, sweep: Sweep) -> None:
        """All its micro-batches are through all their layers."""
        for k in sweep.ks:
            if self.tokens[k] != sweep.i + 1:
                raise Broken(f"layer {self.layers[k]} of micro-batch {k} is never computed")

    def finish(self, finished: Finished) -> None:
        """No micro-batch is left that has more to say."""
        for k, tokens in enumerate(self.tokens):
            if tokens < self.gen_len and not finished(k):
                raise Broken(f"micro-batch {k} ends after {tokens} of {self.gen_len} tokens")


def _shown(ks: Sequence[object]) -> str:
    return f"{ks!r:.60}" if all(type(k) is int and abs(k) < 1 << 62 for k in ks) else f"({len(ks)} that are none)"
