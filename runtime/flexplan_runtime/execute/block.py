"""Block and batches: what one block being run knows of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flexplan.model import Packing
from flexplan.placement import Placement
from flexplan_runtime.attention import HostAttention, prompt_mask
from flexplan_runtime.execute.capture import Replays
from flexplan_runtime.execute.choosing import Chooser, Logprobs, Penalties, Row, chooser_of
from flexplan_runtime.execute.choosing.scoring import Scoring
from flexplan_runtime.execute.rings import Ring
from flexplan_runtime.kernels.quantisation import pack_vectors
from flexplan_runtime.memory import Ledger
from flexplan_runtime.models import Family, Pieces


@dataclass
class BatchState:
    """What a micro-batch knows about its rows beside its bytes; all on the compute device but for ``host_*``."""

    rows: tuple[int, ...]  # what their draws depend on
    pads: Tensor  # (B,) padded positions on the left
    grain_pads: Tensor  # (B x K,) the same for every KV head, int32
    host_grain_pads: Tensor  # int64, as the host's kernel takes them
    position: Tensor  # (1,) place of the newest token, counted on the device so that a step can be replayed
    positions: Tensor  # (B, 1) the same in each row's own counting, of a step
    prompt_mask: Tensor | None  # None where nothing is padded and attention is causal
    stopped: Tensor  # (B,) bool
    chooser: Chooser
    logprobs: Logprobs | None  # None where no row asks for them
    penalties: Penalties | None = None  # None where no row has a rule
    scoring: Scoring | None = None  # None where tokens are chosen
    rings: Mapping[int, Ring] = field(default_factory=dict)  # by their room, the caches that are too small for a row
    _host_unread: dict[int, Tensor] = field(default_factory=dict)  # by window; they stay where the kernel was told

    def prompt_positions(self, prompt_len: int) -> Tensor:
        """(B, S) positions of the padded prompt in each row's own counting; padding is negative."""
        return torch.arange(prompt_len, device=self.pads.device)[None] - self.pads[:, None]

    def unread(self, window: int) -> Tensor:
        """(B x K,) tokens of each grain before those that the newest one reads, int32; 0 is no window."""
        if not window:
            return self.grain_pads
        return torch.maximum(self.grain_pads, (self.position + (1 - window)).int())

    def host_unread(self, window: int) -> Tensor:
        """The same on the host, int64, as of the last `slide_on_host`."""
        if not window:
            return self.host_grain_pads
        return self._host_unread.setdefault(window, self.host_grain_pads.clone())

    def slide_on_host(self, window: int, context: int) -> None:
        """Set `host_unread` to what the newest of ``context`` tokens does not read."""
        if window:
            torch.clamp(self.host_grain_pads, min=max(0, context - window), out=self.host_unread(window))

    def advance(self, i: int, prompt_len: int) -> None:
        """Count the position that pass i adds; done once, where it begins."""
        if i:
            self.position.add_(1)
            torch.sub(self.position, self.pads[:, None], out=self.positions)
        else:
            self.position.fill_(prompt_len - 1)
        for ring in self.rings.values():
            ring.advance(self.position, self.grain_pads)

    def renew(self, other: BatchState) -> None:
        """Take over another block's rows; the tensors stay where captured steps and host attention expect them."""
        self.rows, self.penalties, self.scoring = other.rows, other.penalties, other.scoring
        self.chooser, self.logprobs = other.chooser, other.logprobs
        for name in ("pads", "grain_pads", "host_grain_pads", "position", "positions", "stopped"):
            getattr(self, name).copy_(getattr(other, name))
        if self.prompt_mask is not None and other.prompt_mask is not None:
            self.prompt_mask.copy_(other.prompt_mask)


@dataclass
class BlockState:
    """One block being run: what its layers compute and how its tokens are chosen, not where its bytes are."""

    placement: Placement
    family: Family
    dtype: torch.dtype
    ledger: Ledger
    stop_ids: Tensor  # (n,) on the compute device: those that end every row; empty: none does
    pad_id: int
    batches: list[BatchState]
    num_threads: int
    replays: Replays | None = None
    noting: bool = True
    # what every pass would find out again, by the place of a task's bytes
    on_host: dict[tuple[int, ...], list[HostAttention]] = field(default_factory=dict)
    # of a rolling schedule, by pass and micro-batch: who comes in, and how rows choose; who moves, by pass; and rules
    # by request
    doors: dict[tuple[int, int], Any] = field(default_factory=dict)
    choices: dict[tuple[int, int], Any] = field(default_factory=dict)
    moves: dict[int, Any] = field(default_factory=dict)
    penalties: dict[int, Penalties] = field(default_factory=dict)
    weights: dict[tuple[int, int, bool], dict[str, Pieces]] = field(default_factory=dict)

    def renew(self, batches: Sequence[BatchState]) -> None:
        """Go on with the rows of another block of the same shape."""
        for kept, new in zip(self.batches, batches, strict=True):
            kept.renew(new)
        self.noting = False
        for of_one_job in (self.doors, self.choices, self.moves, self.penalties):
            of_one_job.clear()

    @property
    def device(self) -> torch.device:
        """Where layers compute."""
        return self.stop_ids.device

    @property
    def cache_packing(self) -> Packing | None:
        return self.placement.cache[0][0].packing

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of an element of the cache: the model's, or bytes."""
        return torch.uint8 if self.cache_packing else self.dtype

    def stored(self, x: Tensor) -> Tensor:
        """Keys or values as the cache keeps them: as they are, or each vector packed into bytes."""
        packing = self.cache_packing
        if packing is None:
            return x
        out = torch.empty(*x.shape[:-1], packing.vector_bytes(x.shape[-1]), dtype=torch.uint8, device=x.device)
        pack_vectors(x, packing, out)
        return out


def batch_states(
    placement: Placement, rows: Sequence[Row], device: torch.device, *, causal: bool = True
) -> list[BatchState]:
    """The rows of every micro-batch; padding is on the left."""
    states = []
    for k, batch in enumerate(placement.block.batches):
        here = [rows[row] for row in batch.rows]
        pads = torch.tensor([batch.prompt_len - len(row.prompt) for row in here])
        counts = [row.logprobs for row in here]
        grain_pads = pads.repeat_interleave(placement.shape.num_kv_heads)
        on_device, grains_on_device = pads.to(device), grain_pads.to(device, torch.int32)
        rings = {
            room: Ring.of(room, max(0, batch.prompt_len - room), grains_on_device, grain_pads)
            for room in placement.rings(k)
        }
        states.append(
            BatchState(
                rows=tuple(row.draw for row in here),
                pads=on_device,
                grain_pads=grains_on_device,
                host_grain_pads=grain_pads,
                position=torch.zeros(1, dtype=torch.int64, device=device),
                positions=torch.zeros(batch.num_rows, 1, dtype=torch.int64, device=device),
                prompt_mask=prompt_mask(on_device, batch.prompt_len, causal=causal)
                if pads.any() or not causal
                else None,
                stopped=torch.zeros(batch.num_rows, dtype=torch.bool, device=device),
                chooser=chooser_of([row.sampling for row in here], device),
                logprobs=None if counts.count(None) == len(counts) else Logprobs(counts, device),
                rings=rings,
            )
        )
    return states
