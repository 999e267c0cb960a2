"""Rates: what work takes in seconds under a Hardware.

Resources are not lanes: the two directions of the link, host attention and every copy share the host's
memory.  ``demands`` gives, for each resource, the seconds it would be busy at its full rate; ``solo_s``
is the task alone on the machine (roofline: the slowest resource, plus a fixed start).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flexplan.graph import CPU, D2H, DISK_READ, DISK_WRITE, GPU, H2D_CACHE, H2D_SMALL, H2D_WEIGHTS, HOST_COPY, Work
from flexplan.hardware import DISK_REQUEST_BYTES, Hardware


@dataclass(frozen=True, slots=True, eq=False)
class Price:
    """Seconds of a task alone, and of each resource it needs; equal works share one Price, itself a key.

    For ``fixed_s`` of its time alone it uses none of them.
    """

    solo_s: float
    demands: tuple[tuple[str, float], ...]
    fixed_s: float = 0.0


class Rates:
    """Turns work into seconds under a Hardware."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        small_s = hardware.copy_s if hardware.small_copy_s is None else hardware.small_copy_s
        self.fixed_s: Mapping[str, float] = {
            GPU: hardware.kernel_s,
            H2D_WEIGHTS: hardware.copy_s,
            H2D_CACHE: hardware.copy_s,
            H2D_SMALL: small_s,
            D2H: small_s,
            CPU: hardware.host_task_s,
            HOST_COPY: hardware.host_task_s,
            DISK_READ: hardware.disk_request_s,
            DISK_WRITE: hardware.disk_request_s,
        }
        self._prices: dict[tuple[Work, str], Price] = {}

    def demands(self, work: Work) -> dict[str, float]:
        """Seconds of each resource at its full rate."""
        h = self.hardware
        return {
            "gpu": self._gpu_s(work),
            "link_up": work.up_bytes / h.link_up_bytes_per_s,
            "link_down": work.down_bytes / h.link_down_bytes_per_s,
            "link": (work.up_bytes + work.down_bytes) / h.link_duplex_bytes_per_s,
            "host": work.host_bytes / h.host_bytes_per_s,
            "disk_read": work.read_bytes / h.disk_read_bytes_per_s,
            "disk_write": work.write_bytes / h.disk_write_bytes_per_s,
        }

    def _gpu_s(self, work: Work) -> float:
        """Seconds of computing: products by their roofline, then what runs between them.

        A host's library lays a matrix out anew before it multiplies it with several rows, and neither hides the other.
        """
        h = self.hardware
        flops_s, bytes_s = work.gpu_flops / h.gpu_flops_per_s, work.gpu_bytes / h.gpu_bytes_per_s
        products_s = max(flops_s, bytes_s)
        if h.host_only and work.gpu_matrix_bytes:
            products_s = flops_s + bytes_s + work.gpu_matrix_bytes / h.gpu_matrix_rate
        packed_s = work.gpu_packed_bytes / h.gpu_packed_rate
        return products_s + packed_s + work.gpu_between_bytes / h.gpu_between_rate

    def price(self, work: Work, lane: str) -> Price:
        """The price of a task of this work on this lane; equal works share one Price."""
        found = self._prices.get((work, lane))
        if found is None:
            if len(self._prices) > 10_000:  # a long decode has new lengths every token
                self._prices.clear()
            found = self._prices[work, lane] = self._price(work, lane)
        return found

    def _price(self, work: Work, lane: str) -> Price:
        h, demands = self.hardware, self.demands(work)
        attended_s = work.attended_bytes / h.host_attention_bytes_per_s
        attended_s += work.attended_packed_bytes / h.packed_attention_bytes_per_s
        alone = [*demands.values(), attended_s + work.host_flops / h.attention_flops_per_s]
        alone.append(min(work.read_bytes, DISK_REQUEST_BYTES) / h.disk_one_read_rate)
        if lane == HOST_COPY:
            alone.append(work.host_bytes / 2 / h.pageable_up_bytes_per_s)
        fixed = self.fixed_s.get(lane, 0.0)
        fixed += work.products * h.product_s + work.kernels * h.launch_s + work.samples * h.sample_s
        solo = fixed + max(alone)
        if h.host_only:  # computing, copying and what starts them are done by the same cores; a disk keeps one of them
            demands["cores"] = solo / (h.cores if lane in (DISK_READ, DISK_WRITE) else 1)
            fixed = 0.0
        return Price(solo, tuple((r, s) for r, s in demands.items() if s > 0), fixed)
