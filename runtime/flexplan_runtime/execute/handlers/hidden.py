"""Hidden states of a micro-batch: from their home to the slot in which layers work, and back."""

from __future__ import annotations

from torch import Tensor

from flexplan_runtime.execute.views import TaskView


def working_in(view: TaskView) -> Tensor:
    """Hidden states (B, S, D) in the working slot; their part on the gpu comes from its home."""
    home = view.read("hidden_gpu")
    if home is not None:
        _slot(view)[: len(home)].copy_(home)
    return working(view)


def working(view: TaskView) -> Tensor:
    """The working slot as (B, S, D)."""
    rows = 1 if view.door is not None else len(view.batch.rows)
    shape = (rows, -1, view.placement.shape.hidden_size)
    return _slot(view).view(view.block.dtype).view(shape)


def _slot(view: TaskView) -> Tensor:
    return view.slot("hidden_decode" if view.task.i else "hidden_prefill")


def working_out(view: TaskView) -> None:
    """Of what is now in the working slot, the part that stays into its home on the gpu."""
    home = view.write("hidden_gpu")
    if home is not None:
        home.copy_(_slot(view)[: len(home)])
    view.note("act", "gpu", view.placement.hidden_parts(view.task.i, view.task.k)[0])
