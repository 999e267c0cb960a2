"""One layout: the bytes of a graph, which are proved, are those that a runtime uses."""

from __future__ import annotations

from flexplan.errors import GraphError
from flexplan.graph import TaskGraph
from flexplan.model import ModelShape
from flexplan.placement import Layout, Placement
from flexplan.policy import Block, Policy


def placement_of(graph: TaskGraph, shape: ModelShape, policy: Policy, block: Block) -> Placement:
    """The placement of a block for as many live micro-batches as its graph says, whose layout is the graph's own.

    A runtime lays out its memory by it.  Raises GraphError where the graph was written for other bytes.
    """
    most = len(block.batches)
    if type(graph.live) is not int or not 0 < graph.live <= most:
        message = f"schedule {graph.schedule!r:.60} says live={graph.live!r:.40}, a block has {most} micro-batches"
        raise GraphError("FP829", message, fix="correct the schedule: live is how many are in flight at a time")
    placement = Placement.of(shape, policy, block, graph.live)
    ours, given = dict(Layout.of(placement).buffers), dict(graph.buffers)
    if ours != given:
        name = next(name for name in (*ours, *given) if ours.get(name) != given.get(name))
        message = f"schedule {graph.schedule!r:.60}, live={graph.live}: buffer {name!r:.60} is {given.get(name)!r:.300}"
        raise GraphError(
            "FP829", f"{message}, the layout has {ours.get(name)!r:.300}", fix="correct the schedule: use the layout's"
        )
    return placement
