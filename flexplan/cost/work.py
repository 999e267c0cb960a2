"""Cost: what a task needs of each resource, and what that takes in seconds under a Hardware.

Resources are not lanes: the two directions of the link, host attention and every copy share the host's
memory.  ``demands`` gives, for each resource, the seconds it would be busy at its full rate; ``solo_s``
is the task alone on the machine (roofline: the slowest resource, plus a fixed start).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from flexplan.graph.graph import (
    CPU,
    D2H,
    DISK_READ,
    DISK_WRITE,
    GPU,
    H2D_CACHE,
    H2D_SMALL,
    H2D_WEIGHTS,
    HOST_COPY,
    Work,
)
from flexplan.hardware.machine import DISK_REQUEST_BYTES, Hardware
from flexplan.model.shape import ModelShape

_AS_IT_LIES = 3  # rows that a host's library multiplies with a matrix as it lies in memory
_ROTARY_KERNELS = 19  # sines and cosines of the positions, then a product, a swapped half, its product and a sum, twice


# -- work of the layer maths: tokens is positions over all rows ---------------------------------------------
# Kernels are counted as the framework's operations.  On CUDA some of a step's run as one; ``launch_s``, measured over
# the same count, is then that much smaller.
def _products(
    s: ModelShape,
    tokens: int,
    per_token: float,
    weights: float,
    moved: float,
    between: float,
    kernels: float,
    products: float = 1,
) -> Work:
    """``per_token`` multiplications; numbers of ``weights``, and of a token those that products and others move."""
    element = s.bytes_per_element
    return Work(
        gpu_flops=2 * tokens * per_token,
        gpu_bytes=(weights + tokens * moved) * element,
        gpu_between_bytes=tokens * between * element,
        gpu_matrix_bytes=weights * element if tokens > _AS_IT_LIES else 0,
        products=products,
        kernels=kernels,
    )


def _normed(s: ModelShape, width: int) -> int:
    """Numbers that a norm reads and writes."""
    return 2 * _norm_kernels(s) * width


def _norm_kernels(s: ModelShape) -> int:
    """A norm's kernels: a root-mean-square one is scaled by another."""
    return 2 if s.gated else 1


def layer_work(s: ModelShape, tokens: int) -> Work:
    """A whole layer, attention apart."""
    return project_work(s, tokens).plus(merge_work(s, tokens)).plus(mlp_work(s, tokens))


def project_work(s: ModelShape, tokens: int) -> Work:
    """Norm, the query, key, value projections, rotation, and new keys and values to where they are kept."""
    width = s.q_size + 2 * s.kv_size
    turned = s.q_size + s.kv_size if s.gated else 0
    between = _normed(s, s.hidden_size) + (_normed(s, turned) if s.qk_norm else 0) + 9 * turned + 4 * s.kv_size
    kernels = _norm_kernels(s) + (2 * _norm_kernels(s) if s.qk_norm else 0) + (_ROTARY_KERNELS if s.gated else 0) + 3
    matrix = s.hidden_size * width
    return _products(s, tokens, matrix, matrix, s.hidden_size + width, between, kernels)


def prompt_attention_work(s: ModelShape, rows: int, length: int) -> Work:
    """Causal attention of a prompt over itself."""
    flops = 2 * rows * s.q_size * length * length  # 2 products x 2 operations, half the square
    return Work(gpu_flops=flops, gpu_bytes=2 * rows * length * (s.q_size + s.kv_size) * s.bytes_per_element)


def _is_packed(s: ModelShape, pair_bytes: int) -> bool:
    return pair_bytes != 2 * s.head_dim * s.bytes_per_element


def gpu_attention_work(s: ModelShape, grains: int, context: int, pair_bytes: int, sparsity: float = 1.0) -> Work:
    """One query a head over ``context`` positions of ``grains`` (sequence, KV head) pairs on the gpu.

    All keys are read, and of the values the share ``sparsity``.
    """
    read = (1 + sparsity) / 2
    flops = 4 * grains * s.group_size * s.head_dim * context * read
    nbytes = grains * context * pair_bytes * read
    if _is_packed(s, pair_bytes):
        return Work(gpu_packed_bytes=nbytes, kernels=1)
    return Work(gpu_flops=flops, gpu_bytes=nbytes, kernels=1)


def chosen_values_work(s: ModelShape, grains: int, context: int, pair_bytes: int, sparsity: float) -> Work:
    """The second half of that, once the keys alone were read (``sparsity`` 0): the values that were chosen."""
    flops = 2 * grains * s.group_size * s.head_dim * context * sparsity
    return Work(gpu_flops=flops, gpu_bytes=grains * context * pair_bytes * sparsity / 2)


def host_attention_work(s: ModelShape, grains: int, context: int, pair_bytes: int, sparsity: float = 1.0) -> Work:
    """The same on the host."""
    read = (1 + sparsity) / 2
    nbytes = grains * context * pair_bytes * read
    flops = 4 * grains * s.group_size * s.head_dim * context * read
    packed = _is_packed(s, pair_bytes)
    return Work(
        attended_bytes=0 if packed else nbytes,
        attended_packed_bytes=nbytes if packed else 0,
        host_bytes=nbytes,
        host_flops=flops,
    )


def merge_work(s: ModelShape, tokens: int) -> Work:
    """The output projection of attention, and what it is added to."""
    matrix = s.q_size * s.hidden_size
    return _products(s, tokens, matrix, matrix, s.q_size + s.hidden_size, 3 * s.hidden_size, 2)


def experts_touched(s: ModelShape, tokens: int) -> float:
    """Experts that at least one of ``tokens`` tokens is routed to, if each expert is as likely as another."""
    if not s.num_experts:
        return 1.0
    return s.num_experts * (1 - (1 - s.experts_per_token / s.num_experts) ** tokens)


def mlp_work(s: ModelShape, tokens: int) -> Work:
    """Norm, up (and gate), activation, down and sum; of a mixture, the experts that the tokens touch."""
    matrices, experts = 3 if s.gated else 2, max(1, s.experts_per_token)
    matrix = matrices * s.hidden_size * s.ffn_size
    moved = 2 * s.hidden_size + matrices * s.ffn_size
    sent = 6 * s.hidden_size * experts if s.num_experts else 0  # to the experts and back
    between = _normed(s, s.hidden_size) + (5 if s.gated else 2) * s.ffn_size * experts + 3 * s.hidden_size + sent
    each = (2 if s.gated else 1) + 1
    kernels = _norm_kernels(s) + 2 + (s.num_experts * (each + 4) + 8 if s.num_experts else each)
    touched = experts_touched(s, tokens)
    return _products(s, tokens, matrix * experts, matrix * touched, moved, between, kernels, 2 * touched)


def head_work(s: ModelShape, rows: int) -> Work:
    """Logits of the last positions, and the tokens chosen by them."""
    matrix = s.vocab_size * s.embed_size
    return _products(s, rows, matrix, matrix, s.hidden_size + s.vocab_size, 0, _norm_kernels(s) + 4)._replace(samples=1)


def embed_work(s: ModelShape, tokens: int) -> Work:
    """Rows of the token table into hidden states."""
    return Work(gpu_bytes=2 * tokens * s.hidden_size * s.bytes_per_element, kernels=4)


_shared = lru_cache(maxsize=4096)  # equal works are one object


def open_work(stored_bytes: float, unpacked_bytes: float) -> Work:
    """A layer's weights unpacked, or copied where they are not packed: read once, written once."""
    return Work(gpu_bytes=stored_bytes + unpacked_bytes)


# -- work of moving bytes --------------------------------------------------------------------------------------
@_shared
def up_work(nbytes: float) -> Work:
    """Host to device."""
    return Work(up_bytes=nbytes, host_bytes=nbytes)


@_shared
def down_work(nbytes: float) -> Work:
    """Device to host."""
    return Work(down_bytes=nbytes, host_bytes=nbytes)


@_shared
def read_work(nbytes: float) -> Work:
    """Disk to host."""
    return Work(read_bytes=nbytes, host_bytes=nbytes)


@_shared
def write_work(nbytes: float) -> Work:
    """Host to disk."""
    return Work(write_bytes=nbytes, host_bytes=nbytes)


@_shared
def copy_work(nbytes: float) -> Work:
    """Host to host: read and written."""
    return Work(host_bytes=2 * nbytes)


# -- seconds ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class Price:
    """Seconds of a task alone, and of each resource it needs; equal works share one Price, itself a key."""

    solo_s: float
    demands: tuple[tuple[str, float], ...]


class Rates:
    """Turns work into seconds under a Hardware."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.fixed_s: Mapping[str, float] = {
            GPU: hardware.kernel_s,
            H2D_WEIGHTS: hardware.copy_s,
            H2D_CACHE: hardware.copy_s,
            H2D_SMALL: hardware.copy_s,
            D2H: hardware.copy_s,
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
        alone = [*demands.values(), work.attended_bytes / h.host_attention_bytes_per_s]
        alone.append(work.attended_packed_bytes / h.packed_attention_bytes_per_s)
        alone.append(work.host_flops / h.host_flops_per_s)
        alone.append(min(work.read_bytes, DISK_REQUEST_BYTES) / h.disk_one_read_rate)
        if lane == HOST_COPY:
            alone.append(work.host_bytes / 2 / h.pageable_up_bytes_per_s)
        solo = self.fixed_s.get(lane, 0.0) + max(alone)
        solo += work.products * h.product_s + work.kernels * h.launch_s + work.samples * h.sample_s
        if h.host_only:  # computing, copying and what starts them are done by the same cores; a disk keeps one of them
            demands["cores"] = solo / (h.cores if lane in (DISK_READ, DISK_WRITE) else 1)
        return Price(solo, tuple((r, s) for r, s in demands.items() if s > 0))
