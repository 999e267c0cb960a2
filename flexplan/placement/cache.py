"""KV percents -> which (sequence, KV head) of which micro-batch on which tier, and who attends over it.

The grain is one (layer, sequence, KV head).  Grains of a micro-batch are numbered sequence by sequence;
the first lie on the gpu, the next on the cpu, the last on disk.  Keys and values of a grain move together.
Where the host attends, the gpu may attend over the first of the cpu's, which it streams.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexplan.graph import TIERS
from flexplan.model import ModelShape, Packing
from flexplan.placement.apportion import Apportionment
from flexplan.placement.weights import DISK_ALIGN
from flexplan.policy import Block, Policy
from flexplan.units import round_up


@dataclass(frozen=True, slots=True)
class Segment:
    """The cache of one (transformer layer, micro-batch): grains by tier, room for ``capacity`` tokens.

    Of a layer with a window that is shorter than its rows get, it is a ring of as many tokens as the window.
    """

    depth: int
    k: int
    capacity: int
    grains: tuple[int, int, int]
    attends_on_host: bool
    head_dim: int
    bytes_per_element: int
    packing: Packing | None = None
    vectors: int = 2  # of a token and grain: a key and a value, or one that is both
    shared: int = 0  # grains of the cpu that the gpu streams although the host attends

    @property
    def num_grains(self) -> int:
        return sum(self.grains)

    @property
    def off_gpu(self) -> int:
        """Grains that are not at home on the gpu."""
        return self.grains[1] + self.grains[2]

    @property
    def streamed(self) -> int:
        """Grains that the gpu attends over after copying them; the others attend where they live."""
        return sum(self.streamed_by_tier)

    @property
    def streamed_by_tier(self) -> tuple[int, int]:
        """The same by their home, (cpu, disk)."""
        return (self.shared, 0) if self.attends_on_host else self.grains[1:]

    @property
    def hosted(self) -> int:
        """Grains that are attended over on the host."""
        return self.off_gpu - self.streamed

    @property
    def vector_bytes(self) -> int:
        """The key, or the value, of one token of one grain as it is stored."""
        return vector_bytes(self.head_dim, self.bytes_per_element, self.packing)

    @property
    def pair_bytes(self) -> int:
        """Key and value of one token of one grain, or the vector that is both."""
        return self.vectors * self.vector_bytes

    @property
    def disk_row_bytes(self) -> int:
        """One token of all grains on disk, padded for direct I/O: appending and reading are contiguous."""
        return round_up(self.grains[2] * self.pair_bytes, DISK_ALIGN)

    def resident_bytes(self, tier: str) -> int:
        """Bytes of this segment on a tier."""
        if tier == "disk":
            return self.capacity * self.disk_row_bytes
        return self.grains[("gpu", "cpu").index(tier)] * self.capacity * self.pair_bytes

    def payload(self, tier: str) -> int:
        """Bytes of keys and values on a tier, padding apart."""
        return self.grains[TIERS.index(tier)] * self.capacity * self.pair_bytes


def values_read(sparsity: float, old: int) -> int:
    """Of a grain's ``old`` positions those whose values sparse attention reads; the newest is not counted.

    >>> values_read(0.1, 64)
    6
    """
    return min(max(1, int(sparsity * old)), old)


def vector_bytes(head_dim: int, bytes_per_element: int, packing: Packing | None) -> int:
    """A key or a value of one token and KV head, packed or not."""
    return packing.vector_bytes(head_dim) if packing else head_dim * bytes_per_element


def place_cache(shape: ModelShape, policy: Policy, block: Block) -> tuple[tuple[Segment, ...], ...]:
    """Segments by transformer layer and micro-batch; rounding is carried over the micro-batches and layers."""
    packing = policy.cache_packing(shape.bytes_per_element)
    apportionment = Apportionment(policy.shares("cache"))

    def segment(depth: int, k: int) -> Segment:
        batch = block.batches[k]
        capacity = shape.kept(depth, batch.prompt_len + block.gen_len - 1)
        grains: tuple[int, int, int] = apportionment.take(batch.num_rows * shape.num_kv_heads, capacity)  # type: ignore[assignment]
        host, shared = policy.cpu_cache_compute, round(grains[1] * policy.cache_stream_percent / 100)
        width, vectors = (shape.head_dim, shape.bytes_per_element), shape.vectors_kept
        return Segment(depth, k, capacity, grains, host, *width, packing, vectors, shared)

    return tuple(tuple(segment(depth, k) for k in range(len(block.batches))) for depth in range(shape.num_layers))
