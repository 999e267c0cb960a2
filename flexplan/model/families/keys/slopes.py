"""The slopes of attention with linear biases (ALiBi): what a head's scores gain a position."""

from __future__ import annotations


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Powers of one base; of a number of heads that is no power of two, the others lie between those of twice as many.

    >>> alibi_slopes(2), alibi_slopes(3)
    ((0.0625, 0.00390625), (0.0625, 0.00390625, 0.25))
    """
    whole = 1 << (heads.bit_length() - 1)
    between = [2.0 ** (-4 * n / whole) for n in range(1, 2 * whole, 2)]
    return (*(2.0 ** (-8 * n / whole) for n in range(1, whole + 1)), *between[: heads - whole])
