"""Experts on demand: what the router chose, and of the weights on the host no more than that.

Tensor shapes: T tokens, A experts per token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from flexplan_runtime.execute.handlers.hidden import working_in
from flexplan_runtime.execute.layer_weights import layer_weights
from flexplan_runtime.execute.views import TaskView


def route(view: TaskView) -> None:
    """Which experts each token has, and what they count for."""
    found = view.block.family.routes(layer_weights(view), working_in(view))
    for to, given in zip(routes(view, view.slot("routes")), found, strict=True):
        to.copy_(given)


def routes(view: TaskView, data: Tensor) -> tuple[Tensor, Tensor]:
    """What experts count for (T, A), float32, and which they are (T, A), int64; these lie first."""
    nbytes, each = view.placement.chosen_bytes(view.task.k), view.placement.shape.experts_per_token
    return data[nbytes:].view(torch.float32).view(-1, each), data[:nbytes].view(torch.int64).view(-1, each)


def load_experts(view: TaskView) -> None:
    """The chosen experts to their places in the ring; neighbours are one copy."""
    if view.block.device.type == "cuda":
        told = torch.cuda.Event(blocking=True)  # the host has to know, and not to wait spinning
        told.record()
        told.synchronize()
    w, home, ring = view.placement.weights[view.task.j], view.read("weights_cpu"), view.target()
    assert home is not None, "its task declares the experts on the host"
    chosen = set(view.source().view(torch.int64).tolist())
    for lo, hi in runs(w.expert_spans, chosen):
        view.move(ring[lo - w.experts_at : hi - w.experts_at], home[lo - w.experts_at : hi - w.experts_at])


def runs(spans: Mapping[int, tuple[int, int]], chosen: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The bytes of those that have some, one range for neighbours.

    >>> list(runs({2: (0, 64), 3: (64, 128), 4: (128, 192), 5: (192, 256)}, {0, 2, 3, 5}))
    [(0, 128), (192, 256)]
    """
    first = last = -1
    for lo, hi in sorted(spans[expert] for expert in chosen if expert in spans):
        if lo != last:
            if last > first:
                yield first, last
            first = lo
        last = hi
    if last > first:
        yield first, last
