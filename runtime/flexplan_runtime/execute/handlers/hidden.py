"""Hidden states of a micro-batch: from their home to the slot in which layers work, and back."""

from __future__ import annotations

from torch import Tensor

from flexplan.graph.graph import Task
from flexplan_runtime.execute.block import Job
from flexplan_runtime.execute.views import Views


def take_up(job: Job, task: Task, views: Views) -> Tensor:
    """Hidden states (B, S, D) in the working slot; their part on the gpu comes from its home."""
    home = views.read("hidden_gpu")
    if home is not None:
        _slot(task, views)[: len(home)].copy_(home)
    return working(job, task, views)


def working(job: Job, task: Task, views: Views) -> Tensor:
    """The working slot as (B, S, D)."""
    shape = (len(job.batches[task.k].rows), -1, job.placement.shape.hidden_size)
    return _slot(task, views).view(job.dtype).view(shape)


def _slot(task: Task, views: Views) -> Tensor:
    return views.slot("hidden_decode" if task.i else "hidden_prefill")


def put_down(job: Job, task: Task, views: Views) -> None:
    """Of what is now in the working slot, the part that stays into its home on the gpu."""
    home = views.write("hidden_gpu")
    if home is not None:
        home.copy_(_slot(task, views)[: len(home)])
    job.note(task, "act", "gpu", job.placement.hidden_parts(task.i, task.k)[0])
