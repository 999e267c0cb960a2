"""The passes that show a block: all are alike but the prefill, and the tasks of all of them would fill memory."""

from __future__ import annotations


def passes_to_show(gen_len: int) -> tuple[int, ...]:
    """The tokens of these passes: the prefill, and the one half-way through the output, if there is one.

    >>> passes_to_show(32), passes_to_show(1)
    ((0, 16), (0,))
    """
    return (0, gen_len // 2) if gen_len > 1 else (0,)


def tokens_to_keep(gen_len: int) -> frozenset[int]:
    """The tokens whose tasks show those passes: they themselves and their neighbours, into which lanes work ahead.

    >>> sorted(tokens_to_keep(32))
    [0, 1, 15, 16, 17]
    """
    return frozenset(j for i in passes_to_show(gen_len) for j in (i - 1, i, i + 1) if 0 <= j < gen_len)
