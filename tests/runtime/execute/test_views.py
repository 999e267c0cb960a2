"""A task's view gives the bytes that the task declares, by the whole name of their buffer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flexplan_runtime.execute.views import TaskView

from flexplan.errors import GraphError
from flexplan.graph import GPU, Access, Task


class Memory:
    """Stands for the arenas of a block: an access is the numbers of its bytes."""

    def bytes_of(self, access: Access) -> torch.Tensor:
        return torch.arange(access.lo, access.hi)


@pytest.fixture
def view() -> TaskView:
    reads = (Access("ids_host", 0, 0, 16), Access("hidden_decode", 0, 8, 16))
    task = Task("compute", GPU, 1, 2, 0, reads=reads, writes=(Access("hidden_decode", 0, 0, 8),))
    block: Any = None  # bytes are the memory's
    memory: Any = Memory()
    return TaskView(block, task, memory)


def test_a_slot_is_one_range_of_what_is_read_and_written(view: TaskView) -> None:
    assert view.slot("hidden_decode").tolist() == list(range(16))


@pytest.mark.parametrize("name", ["ids", "hidden", "hidden_prefill", ""])
def test_a_slot_goes_by_its_whole_name(view: TaskView, name: str) -> None:
    """``ids`` is not ``ids_host``, which lies on another tier."""
    with pytest.raises(GraphError, match="FP806"):
        view.slot(name)
