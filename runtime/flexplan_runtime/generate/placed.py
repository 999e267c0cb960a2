"""A model whose weights lie in their places on the tiers, until it is closed."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from flexplan.placement import Layout, Placement
from flexplan.policy import Policy, full_block
from flexplan.problem import Workload
from flexplan_runtime.execute import ExecutionEnv, prepare_steps
from flexplan_runtime.memory import Arenas
from flexplan_runtime.models import family
from flexplan_runtime.weights import OpenedModel, PackedFiles, load_weights, read_packed


class PlacedModel:
    """Weights of one model in the arenas of one environment."""

    def __init__(
        self,
        opened: OpenedModel,
        policy: Policy,
        env: ExecutionEnv,
        dtype: torch.dtype,
        packed_cache: str | Path | None,
    ) -> None:
        self.env = env
        self.policy = policy
        self.dtype = dtype
        self.shape = opened.shape.with_dtype(dtype.itemsize)
        self.math = opened.math
        self.family = family(self.shape, opened.math)
        self.placement = Placement.of(self.shape, policy, full_block(Workload(gen_len=1), policy))
        sizes = arena_sizes([self.placement], weights=True)
        self.arenas = Arenas(sizes, env.ledger, env.device, env.offload_dir)
        try:
            self._load(opened, packed_cache)
        except BaseException:
            self.close()
            raise

    def _load(self, opened: OpenedModel, packed_cache: str | Path | None) -> None:
        """Read, or draw, the weights; beside it what steps need is compiled."""
        env, packed = self.env, read_packed
        if packed_cache:
            packed = PackedFiles(Path(packed_cache).expanduser()).read
        with ThreadPoolExecutor(1, "flexplan-prepare") as beside:
            prepared = beside.submit(prepare_steps, self.family, self.policy, self.dtype, env.device)
            load_weights(self.placement, self.arenas, opened.reader, self.dtype, env.loading_threads, packed)
            self.family.learn(opened.reader)
            self.arenas.lock(env.loading_threads, touch=False)
        prepared.result()

    def close(self) -> None:
        """Give the memory and the disk space of the weights back."""
        self.env.ledger.forget("w")
        self.arenas.close()
        if self.env.device.type != "cpu":
            gc.collect()  # a caught error's frames may still hold views of device memory


def arena_sizes(placements: Iterable[Placement], *, weights: bool) -> dict[str, int]:
    """Bytes of each arena, of weights or of all else, that is enough for every one of the placements."""
    sizes: dict[str, int] = {}
    for placement in placements:
        for name, nbytes in Layout.of(placement).arena_bytes.items():
            if name.endswith(".weights") == weights:
                sizes[name] = max(sizes.get(name, 0), nbytes)
    return sizes
