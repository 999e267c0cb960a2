"""Leads: how early in the order of a pass the weights of a layer may be sent for.

A layer's weights have the same slot in every pass, so that its steps find them where they did before: layer j of
``slots`` has slot j mod slots.  Unless slots divide layers, the first layers of a pass then meet a slot that the last
ones of the pass before still need, and are sent for later than the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexplan.policy import Policy


def lookahead(policy: Policy) -> int:
    """Layers whose weights are on their way while one computes.

    Where steps are split, the next layer is projected before this one is finished, so one more is in use.
    """
    if not policy.overlap:
        return 0
    return 2 if policy.splits_steps else 1


def unpacked_slots(policy: Policy) -> int:
    """Layers whose weights are unpacked on the gpu at a time: those that compute at the same time."""
    return 2 if policy.overlap and policy.splits_steps else 1


def weight_leads(streams: Sequence[bool], slots: int) -> tuple[int, ...]:
    """How many layers before it each layer is sent for: one fewer than slots, or fewer where its slot is in use.

    Where the first layer has to wait for its slot, the second, if it has not, is sent before it.
    ``streams`` tells which layers have weights that arrive at all.

    >>> weight_leads([True] * 6, 3), weight_leads([True] * 7, 3), weight_leads([True] * 8, 3)
    ((2, 2, 2, 2, 2, 2), (0, 3, 2, 2, 2, 2, 2), (1, 1, 2, 2, 2, 2, 2, 2))
    >>> weight_leads([False, *[True] * 6], 3), weight_leads([True] * 5, 2)
    ((0, 3, 2, 2, 2, 2, 2), (0, 2, 1, 1, 1))
    """
    between = [_layers_between(streams, slots, j) for j in range(len(streams))]
    leads = [min(slots - 1, n) for n in between]
    if leads[0] < slots - 1 < between[1]:
        leads[1] = slots
    return tuple(leads)


def _layers_between(streams: Sequence[bool], slots: int, j: int) -> int:
    """Layers between j and the one before it in the same slot, maybe in the pass before."""
    num_layers = len(streams)
    for n in range(1, num_layers):
        before = (j - n) % num_layers
        if streams[before] and before % slots == j % slots:
            return n - 1
    return num_layers - 1


def fewer_layers(num_layers: int, policy: Policy, least: int) -> int:
    """The fewest of a model's layers, but at least so many, between whose passes weights wait as between its own.

    All of them with experts on demand: of fewer layers, other shares are on the gpu.

    >>> fewer_layers(48, Policy(1, 1), 3), fewer_layers(48, Policy(1, 1, cpu_cache_compute=True), 4)
    (4, 6)
    """
    if policy.experts_on_demand:
        return num_layers
    return min(num_layers, least + (num_layers - least) % (lookahead(policy) + 1))
