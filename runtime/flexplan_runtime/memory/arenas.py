"""Arenas: the bytes of each tier, allocated once, charged to the tier's budget and counted when they move."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from flexplan.errors import InfeasiblePlan, MemoryExhausted
from flexplan.graph import TIERS, tier_of
from flexplan.units import format_size
from flexplan_runtime.memory.disk import ScratchFile
from flexplan_runtime.memory.host import HostBlock, aligned_bytes
from flexplan_runtime.memory.host_limits import refuse_beyond


class Ledger:
    """What each tier holds, and what moved: bytes by (resource, token i), counted where they are moved.

    ``stored`` counts bytes of weights, cache and activations ("w", "cache", "act") by the tier that was made
    their home, where they are put there: the shares that were realised, not those that were asked.
    ``disk_in_memory`` names a directory of the disk tier that lies in host memory: it is charged for it, too.
    """

    def __init__(self, budgets: Mapping[str, int | None], disk_in_memory: Path | None = None) -> None:
        self.budgets = dict(budgets)
        self.disk_in_memory = disk_in_memory
        self.held: dict[str, int] = {}
        self.moved: Counter[tuple[str, int]] = Counter()
        self.stored: Counter[tuple[str, str]] = Counter()
        self._warned = False
        self._lock = threading.Lock()

    def take(self, arena: str, nbytes: int) -> None:
        """Charge an arena to its tier; over the budget is an InfeasiblePlan, and nothing is charged."""
        with self._lock:
            for tier in self.charged(arena):
                used = sum(size for name, size in self.held.items() if tier in self.charged(name))
                budget = self.budgets.get(tier)
                if budget is not None and used + nbytes > budget:
                    raise InfeasiblePlan(
                        "FP407",
                        f"{arena} needs {format_size(nbytes)}, {tier} has {format_size(budget - used)} "
                        f"of {format_size(budget)} left",
                        fix=f"raise --{tier}-mem, or lower gpu_batch_size",
                        binding=(tier,),
                    )
            self.held[arena] = self.held.get(arena, 0) + nbytes

    def charged(self, arena: str) -> tuple[str, ...]:
        """The tiers whose budgets an arena is charged to."""
        tier = tier_of(arena)
        return ("disk", "cpu") if tier == "disk" and self.disk_in_memory else (tier,)

    def give_back(self, arena: str, nbytes: int) -> None:
        """An arena of this size is gone; another model's of the same name stays charged."""
        with self._lock:
            self.held[arena] = self.held.get(arena, 0) - nbytes
            if self.held[arena] <= 0:
                del self.held[arena]

    def warn_of_memory(self) -> None:
        """Say once that the disk tier is host memory."""
        if self.disk_in_memory and not self._warned:
            self._warned = True
            message = f"--offload-dir {self.disk_in_memory} lies in host memory (tmpfs): the disk tier is charged to it"
            warnings.warn(message, stacklevel=2)

    def count(self, resource: str, i: int, nbytes: int) -> None:
        """Bytes that crossed a link or reached the disk for token i."""
        with self._lock:
            self.moved[resource, i] += nbytes

    def store(self, what: str, tier: str, nbytes: int) -> None:
        """Bytes put into their home."""
        with self._lock:
            self.stored[what, tier] += nbytes

    def forget(self, *whats: str) -> None:
        """Begin to count anew."""
        with self._lock:
            for what, tier in [key for key in self.stored if key[0] in whats]:
                del self.stored[what, tier]

    def shares(self, what: str) -> tuple[float, float, float]:
        """Percent of what was stored that went to the gpu, the cpu and the disk."""
        gpu, cpu, disk = (self.stored[what, tier] for tier in TIERS)
        total = max(1, gpu + cpu + disk)
        return 100 * gpu / total, 100 * cpu / total, 100 * disk / total


class Arenas:
    """The arenas of one model or its blocks, by name; closing gives everything back."""

    def __init__(self, sizes: Mapping[str, int], ledger: Ledger, device: torch.device, scratch: Path) -> None:
        self.ledger = ledger
        self.device = device
        self.memory: dict[str, Tensor] = {}
        self._blocks: dict[str, HostBlock] = {}
        self.disk: dict[str, ScratchFile] = {}
        self._sizes = dict(sizes)
        self._taken: dict[str, int] = {}
        refuse_beyond(self._host_bytes(), " and ".join(sizes), own_bytes=0)
        try:
            for name, nbytes in sizes.items():  # all are charged, or refused, before any is allocated
                self.ledger.take(name, nbytes)
                self._taken[name] = nbytes
            for name, nbytes in sizes.items():
                self._allocate(name, nbytes, scratch)
        except BaseException:
            self.close()
            raise

    def _host_bytes(self) -> int:
        """Of host memory; where the host computes, the device's tier is that as well."""
        tiers = {"cpu", "gpu"} if self.device.type == "cpu" else {"cpu"}
        return sum(nbytes for name, nbytes in self._sizes.items() if tiers.intersection(self.ledger.charged(name)))

    def _allocate(self, name: str, nbytes: int, scratch: Path) -> None:
        if name.endswith(".workspace"):
            return  # charged, but allocated by the kernels themselves
        if name.startswith("disk"):
            self.ledger.warn_of_memory()
            self.disk[name] = ScratchFile(scratch, nbytes)
            return
        try:
            self.memory[name] = self._memory(name, nbytes)
        except (RuntimeError, MemoryError) as error:
            raise MemoryExhausted(
                "FP701", f"{name} of {format_size(nbytes)} cannot be allocated: {error}", fix="lower the budgets"
            ) from error

    def _memory(self, name: str, nbytes: int) -> Tensor:
        if self.device.type == "cpu":
            return aligned_bytes(nbytes)
        if name.startswith("gpu"):
            return torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        block = self._blocks[name] = HostBlock(nbytes)
        return block.data

    def lock(self, num_threads: int, *, touch: bool) -> None:
        """Page-lock the host's arenas, all but the pageable one; ``touch`` first what nothing has filled yet."""
        for name, block in self._blocks.items():
            if touch:
                block.touch(num_threads)
            if not name.startswith("pageable"):
                block.lock()

    def lock_range(self, name: str, lo: int, hi: int) -> None:
        """Page-lock a part of an arena, in whole pages, as soon as it is filled; no copy may cross its bounds."""
        if name in self._blocks and not name.startswith("pageable"):
            self._blocks[name].lock_range(lo, hi)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Are all of these arenas here, at least as large?"""
        return all(self._sizes.get(name, 0) >= nbytes for name, nbytes in sizes.items())

    @property
    def busy(self) -> bool:
        """May a request of a disk file that failed still write to memory?"""
        return any(file.busy for file in self.disk.values())

    def close(self) -> None:
        """Give the memory and the disk space back."""
        for file in self.disk.values():
            file.close()
        self.memory.clear()
        for block in self._blocks.values():
            block.close()
        for name, nbytes in self._taken.items():
            self.ledger.give_back(name, nbytes)
        self._blocks.clear()
        self.disk.clear()
        self._taken.clear()
        self._sizes.clear()
