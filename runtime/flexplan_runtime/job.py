"""Job: one block being run, and the typed views of its bytes that handlers work on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flexplan.cache_placement import Segment
from flexplan.errors import GraphError
from flexplan.graph import Access, Task
from flexplan.layers import Layer
from flexplan.packing import Packing
from flexplan.placement import Placement
from flexplan.tensors import WeightTensor
from flexplan.weight_placement import LayerWeights, Piece
from flexplan.workspace import rows_at_once
from flexplan_runtime.arenas import Arenas, Ledger
from flexplan_runtime.attention import prompt_mask
from flexplan_runtime.disk import ScratchFile
from flexplan_runtime.hostcall import HostAttention
from flexplan_runtime.models.base import Family, Pieces
from flexplan_runtime.penalties import Penalties
from flexplan_runtime.quantisation import pack_vectors
from flexplan_runtime.replay import Replays
from flexplan_runtime.sampling import Sampling


@dataclass
class BatchState:
    """What a micro-batch knows about its rows beside its bytes; all on the compute device but for ``host_*``."""

    rows: tuple[int, ...]  # places in the caller's input
    pads: Tensor  # (B,) padded positions on the left
    grain_pads: Tensor  # (B x K,) the same for every KV head, int32
    host_grain_pads: Tensor  # int64, as the host's kernel takes them
    position: Tensor  # (1,) place of the newest token, counted on the device so that a step can be replayed
    positions: Tensor  # (B, 1) the same in each row's own counting, of a step
    prompt_mask: Tensor | None  # None where nothing is padded and attention is causal
    stopped: Tensor  # (B,) bool
    penalties: Penalties | None = None  # None where the model's generation config has no rule

    def renew(self, other: BatchState) -> None:
        """Take over another block's rows; the tensors stay where captured steps and host attention expect them."""
        self.rows, self.penalties = other.rows, other.penalties
        for name in ("pads", "grain_pads", "host_grain_pads", "position", "positions", "stopped"):
            getattr(self, name).copy_(getattr(other, name))
        if self.prompt_mask is not None and other.prompt_mask is not None:
            self.prompt_mask.copy_(other.prompt_mask)


@dataclass
class Job:
    """One block: where its bytes are, what its layers compute, how its tokens are chosen."""

    placement: Placement
    weights: Arenas
    work: Arenas
    family: Family
    dtype: torch.dtype
    device: torch.device
    ledger: Ledger
    sampling: Sampling
    stop_ids: Tensor  # (n,) on the compute device; empty: never stops
    pad_id: int
    batches: list[BatchState]
    num_threads: int
    replays: Replays | None = None
    noting: bool = True
    on_host: dict[tuple[int, ...], list[HostAttention]] = field(default_factory=dict)
    _layers: dict[tuple[int, int], dict[str, Pieces]] = field(default_factory=dict)

    # -- bytes -----------------------------------------------------------------------------------------------
    def arena_bytes(self, access: Access) -> Tensor:
        """The bytes of an access in memory."""
        buffer = self.placement.buffers[access.buffer]
        lo, hi = buffer.interval(access)
        arenas = self.weights if buffer.arena in self.weights.memory else self.work
        return arenas.memory[buffer.arena][lo:hi]

    def disk_range(self, access: Access) -> tuple[ScratchFile, int]:
        """The file and offset of an access on disk."""
        buffer = self.placement.buffers[access.buffer]
        arenas = self.weights if buffer.arena in self.weights.disk else self.work
        return arenas.disk[buffer.arena], buffer.interval(access)[0]

    def note(self, task: Task, what: str, tier: str, nbytes: int) -> None:
        """Count what a prompt leaves in its home, once a job: a replayed step runs no handler."""
        if self.noting and task.i == 0 and self.placement.block.gen_len > 1:
            self.ledger.store(what, tier, nbytes)

    # -- what a task is about --------------------------------------------------------------------------------
    def layer(self, task: Task) -> Layer:
        return self.placement.layers[task.j]

    def segment(self, task: Task) -> Segment:
        return self.placement.segment(self.layer(task), task.k)

    def row_spans(self, task: Task) -> list[slice]:
        """Rows of the micro-batch that a layer computes together."""
        rows = len(self.batches[task.k].rows)
        step = rows if task.i else rows_at_once(rows, self.placement.new_tokens(0, task.k))
        return [slice(first, first + step) for first in range(0, rows, step)]

    def old_tokens(self, task: Task) -> int:
        """Positions in the cache before this step."""
        return self.placement.context(task.i, task.k) - self.placement.new_tokens(task.i, task.k)

    def positions(self, task: Task) -> Tensor:
        """(B, S) positions in each row's own counting; padding is negative."""
        batch = self.batches[task.k]
        if task.i:
            return batch.positions
        return torch.arange(self.placement.new_tokens(0, task.k), device=self.device)[None] - batch.pads[:, None]

    def advance(self, task: Task) -> None:
        """Count the positions that this step adds; a pass does it once, where it begins."""
        batch = self.batches[task.k]
        if task.i:
            batch.position.add_(1)
            torch.sub(batch.position, batch.pads[:, None], out=batch.positions)
        else:
            batch.position.fill_(self.placement.new_tokens(0, task.k) - 1)

    # -- weights ---------------------------------------------------------------------------------------------
    def layer_weights(self, task: Task) -> dict[str, Pieces]:
        """The tensors of the task's layer, as row pieces in the order of their rows."""
        moving = next((a for a in task.reads if a.buffer in ("weight_ring", "weights_open")), None)
        slot = -1 if moving is None else self.placement.buffers[moving.buffer].slot(moving.index)
        found = self._layers.get((task.j, slot))
        if found is None:
            if moving is not None and moving.buffer == "weights_open":
                found = self._open_views(task, moving)
            else:
                found = self._piece_views(task)
            self._layers[task.j, slot] = found
        return found

    def _open_views(self, task: Task, access: Access) -> dict[str, Pieces]:
        """Whole tensors, unpacked."""
        w, data = self.placement.weights[task.j], self.arena_bytes(access)
        return {tensor.name: (self.whole_view(data, w, tensor),) for tensor in w.opened}

    def _piece_views(self, task: Task) -> dict[str, Pieces]:
        views: dict[str, list[Tensor]] = {}
        for piece, data in self.stored_pieces(task):
            views.setdefault(piece.tensor.name, []).append(self.piece_view(data, piece, 0))
        return {name: tuple(pieces) for name, pieces in views.items()}

    def stored_pieces(self, task: Task) -> Iterator[tuple[Piece, Tensor]]:
        """The pieces of the task's layer with their bytes, resident or streamed."""
        w = self.placement.weights[task.j]
        ring = next((a for a in task.reads if a.buffer == "weight_ring"), None)
        resident = next((a for a in task.reads if a.buffer == "weights_gpu" and a.index == task.j), None)
        for piece in w.pieces:
            home = resident if piece.tier == "gpu" else ring
            if home is None:
                raise GraphError("FP805", f"{task.name} does not read {piece.tensor.name}", fix="correct the schedule")
            start = piece.offset if piece.tier == "gpu" else w.ring_offset(piece)
            yield piece, self.arena_bytes(home)[start : start + piece.nbytes]

    def piece_view(self, data: Tensor, piece: Piece, start: int) -> Tensor:
        """(rows, cols) of a piece, or (rows,) of a vector, that begins at byte ``start`` of ``data``."""
        flat = data[start : start + piece.nbytes].view(self.dtype)
        return flat if piece.tensor.cols == 1 else flat.view(piece.rows, piece.tensor.cols)

    def whole_view(self, data: Tensor, w: LayerWeights, tensor: WeightTensor) -> Tensor:
        """The same of a whole tensor in the open weights."""
        start = w.opened[tensor]
        flat = data[start : start + tensor.open_bytes].view(self.dtype)
        return flat if tensor.cols == 1 else flat.view(tensor.rows, tensor.cols)

    # -- keys and values -------------------------------------------------------------------------------------
    def stored(self, x: Tensor) -> Tensor:
        """Keys or values as the cache keeps them: as they are, or each vector packed into bytes."""
        packing = self.cache_packing
        if packing is None:
            return x
        out = torch.empty(*x.shape[:-1], packing.vector_bytes(x.shape[-1]), dtype=torch.uint8, device=x.device)
        pack_vectors(x, packing, out)
        return out

    @property
    def cache_packing(self) -> Packing | None:
        return self.placement.cache[0][0].packing

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of an element of the cache: the model's, or bytes."""
        return torch.uint8 if self.cache_packing else self.dtype


def batch_states(
    placement: Placement, prompts: Sequence[Sequence[int]], first_row: int, device: torch.device, *, causal: bool = True
) -> list[BatchState]:
    """The rows of every micro-batch; padding is on the left."""
    states = []
    for batch in placement.block.batches:
        pads = torch.tensor([batch.prompt_len - len(prompts[row]) for row in batch.rows])
        grain_pads = pads.repeat_interleave(placement.shape.num_kv_heads)
        on_device = pads.to(device)
        states.append(
            BatchState(
                rows=tuple(first_row + row for row in batch.rows),
                pads=on_device,
                grain_pads=grain_pads.to(device, torch.int32),
                host_grain_pads=grain_pads,
                position=torch.zeros(1, dtype=torch.int64, device=device),
                positions=torch.zeros(batch.num_rows, 1, dtype=torch.int64, device=device),
                prompt_mask=prompt_mask(on_device, batch.prompt_len, causal=causal)
                if pads.any() or not causal
                else None,
                stopped=torch.zeros(batch.num_rows, dtype=torch.bool, device=device),
            )
        )
    return states
