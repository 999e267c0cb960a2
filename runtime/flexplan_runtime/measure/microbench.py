"""What the parts of this machine do by themselves: copies, products, attention and the disk file of the runtime.

Where the host computes (no accelerator), the link is a copy from one part of its memory to another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor

from flexplan.hardware import DISK_REQUEST_BYTES
from flexplan.policy import Policy
from flexplan.units import MiB
from flexplan_runtime.attention import HostAttention, decode_attention_packed
from flexplan_runtime.execute import ExecutionEnv
from flexplan_runtime.kernels.attention_rule import AttentionRule
from flexplan_runtime.measure.timing import Figure, rate_of
from flexplan_runtime.memory import PIECE_BYTES, HostBlock, ScratchFile, aligned_bytes

Figures = dict[str, Figure]


@dataclass(frozen=True)
class Sizes:
    """How much is moved and computed for one measurement, and how long it is repeated.

    All that is read is more than a cache of the host holds.  Where others share the machine, several rounds spread over
    a minute say more than one: a bad second spoils only one of them.
    """

    copy_bytes: int
    tokens: int
    width: int
    matrices: int
    attended_bytes: int
    disk_bytes: int
    repeat_s: float
    rounds: int


ON_CPU = Sizes(256 * MiB, 1024, 768, 32, 512 * MiB, 256 * MiB, 0.6, 3)
ON_CUDA = Sizes(1024 * MiB, 4096, 8192, 8, 1024 * MiB, 1024 * MiB, 1.0, 1)
SHORT_ON_CPU = Sizes(64 * MiB, 128, 768, 8, 64 * MiB, 64 * MiB, 0.1, 1)  # still more than a cache holds
SHORT_ON_CUDA = Sizes(256 * MiB, 1024, 4096, 8, 128 * MiB, 256 * MiB, 0.1, 1)
QUICK = Sizes(16 * MiB, 64, 512, 2, 8 * MiB, 16 * MiB, 0.05, 1)
_SEVERAL = 4  # rows
_GROUPS = 4, 8, 16  # query heads that share a KV head
_MOST_FLOPS = 1e15  # where further queries cost nothing that can be measured


class Bench:
    """The measurements, in the environment in which models run."""

    def __init__(self, env: ExecutionEnv, sizes: Sizes) -> None:
        self.env = env
        self.sizes = sizes
        self.device = env.device
        self.on_host = env.device.type == "cpu"
        # what a 16-bit checkpoint is run in on a device, and what the host computes well by itself
        self.dtype = torch.float32 if self.on_host else torch.float16

    # -- the device ----------------------------------------------------------------------------------------------
    def compute(self) -> Figures:
        """Products at the shape of a prompt, and reading weights for a few tokens."""
        width, tokens = self.sizes.width, self.sizes.tokens
        # one up and one down are enough for a prompt; for a token all are read from memory
        shapes = ((4 * width, width), (width, 4 * width))
        matrices = [self._random(*shapes[n % 2]) for n in range(self.sizes.matrices if self.on_host else 2)]
        nbytes = self.sizes.matrices * matrices[0].nbytes

        def products(rows: int) -> Callable[[], None]:
            inputs = [self._random(rows, cols) for _, cols in shapes]

            def multiply() -> None:
                for n in range(self.sizes.matrices):
                    F.linear(inputs[n % 2], matrices[n % len(matrices)])

            return multiply

        read = self._rate(nbytes, products(1))
        if not self.on_host:  # what a device's products take is measured in running models
            return {"gpu_bytes_per_s": read} | self._packed_attention()
        gate, up, hidden = self._random(tokens, 4 * width), self._random(tokens, 4 * width), self._random(tokens, width)

        def between() -> Tensor:
            return F.silu(gate).mul_(up)[:, :width].add(hidden)

        touched = (5 * 4 + 3) * hidden.nbytes
        found = {"gpu_bytes_per_s": read, "gpu_between_bytes_per_s": self._rate(touched, between)}
        flops = 2.0 * nbytes / matrices[0].element_size()  # of one row
        of_prompts = self._rate(tokens * flops, products(tokens))
        # the rate of products is that of a running model, too; here what laying matrices out for them takes
        several = self._rate(nbytes, products(_SEVERAL))
        read_s, computed_s = nbytes / found["gpu_bytes_per_s"].value, _SEVERAL * flops / of_prompts.value
        laid_out_s = max(0.1 * read_s, nbytes / several.value - read_s - computed_s)
        return found | {"gpu_matrix_bytes_per_s": Figure(nbytes / laid_out_s, several.spread_percent)}

    def _packed_attention(self) -> Figures:
        """Decoding on the gpu over 4-bit keys and values."""
        packing = Policy(compress_cache=True).cache_packing(self.dtype.itemsize)
        assert packing is not None
        grains, tokens, head_dim = 2048, 512, 128
        shape = (grains, 2, tokens, packing.vector_bytes(head_dim))
        pairs = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        queries, pads = (
            self._random(grains, head_dim)[:, None],
            torch.zeros(grains, dtype=torch.int32, device=self.device),
        )
        newest = torch.full((1,), tokens - 1, device=self.device)
        act = lambda: decode_attention_packed(queries, pairs, packing, pads, newest, head_dim**-0.5)  # noqa: E731
        return {"gpu_packed_attention_bytes_per_s": self._rate(pairs.nbytes, act)}

    # -- the link ------------------------------------------------------------------------------------------------
    def link(self) -> Figures:
        """Copies each way, both ways at once, and from memory that is not page-locked."""
        nbytes = self.sizes.copy_bytes
        blocks = [HostBlock(nbytes), HostBlock(nbytes)]
        here = [torch.zeros(nbytes, dtype=torch.uint8, device=self.device) for _ in blocks]
        try:
            for block in blocks:
                block.touch(self.env.num_threads)
                if not self.on_host:
                    block.lock()
            up, down = (lambda: _pieces(here[0], blocks[0].data)), (lambda: _pieces(blocks[1].data, here[1]))
            loose = torch.zeros(nbytes, dtype=torch.uint8)
            return {
                "link_up_bytes_per_s": self._rate(nbytes, up),
                "link_down_bytes_per_s": self._rate(nbytes, down),
                "link_duplex_bytes_per_s": self._rate(2 * nbytes, lambda: self._together(up, down)),
                # unpinned weights are copied to page-locked memory first: that copy is what this rate is for
                "pageable_up_bytes_per_s": self._rate(nbytes, lambda: blocks[0].data.copy_(loose)),
            }
        finally:
            self._release(blocks)

    def _together(self, up: Callable[[], None], down: Callable[[], None]) -> None:
        if self.on_host:
            other = threading.Thread(target=down)
            other.start()
            up()
            other.join()
            return
        streams = [torch.cuda.Stream(self.device) for _ in range(2)]
        for stream, copy in zip(streams, (up, down), strict=True):
            with torch.cuda.stream(stream):
                copy()

    def _release(self, blocks: list[HostBlock]) -> None:
        if not self.on_host:
            torch.cuda.synchronize(self.device)
        for block in blocks:
            block.close()

    # -- the host ------------------------------------------------------------------------------------------------
    def host(self) -> Figures:
        """Attention over keys and values in host memory, alone and while copies run, and plain products."""
        width = min(2048, self.sizes.width)
        left = torch.randn(self.sizes.tokens, width)
        right = torch.randn(width, width)
        products = self._rate(2.0 * left.shape[0] * width * width, lambda: left @ right)
        found = {"host_flops_per_s": products}
        if not self.on_host:  # attention beside a device is measured in running models
            return found
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            pairs = self._pairs(dtype)
            attend, nbytes = self._attention(pairs), pairs.nbytes
            figure = self._rate(nbytes, attend)
            found[f"host_attention in {str(dtype).removeprefix('torch.')}"] = figure
            if dtype == self.dtype:
                found["host_attention_bytes_per_s"] = figure
                found["host_bytes_per_s"] = _larger(figure, self._roof(attend, nbytes))
                found["host_attention_flops_per_s"] = self._further_queries(pairs)
        return found

    def _further_queries(self, pairs: Tensor) -> Figure:
        """Operations a second that query heads beyond the first of each KV head add: the line through some groups."""
        one = self._rate(pairs.nbytes, self._attention(pairs))
        first_s, up, across = pairs.nbytes / one.value, 0.0, 0.0
        for group in _GROUPS:
            flops = 2.0 * (group - 1) * pairs.nbytes / pairs.dtype.itemsize
            up += flops * (pairs.nbytes / self._rate(pairs.nbytes, self._attention(pairs, group)).value - first_s)
            across += flops * flops
        return Figure(min(_MOST_FLOPS, across / max(up, across / _MOST_FLOPS)), one.spread_percent)

    def _pairs(self, dtype: torch.dtype) -> Tensor:
        """Keys and values of 512 tokens with heads of 128."""
        tokens, head_dim = 512, 128
        grains = max(1, self.sizes.attended_bytes // (2 * tokens * head_dim * dtype.itemsize))
        return torch.zeros(grains, 2, tokens, head_dim, dtype=dtype).normal_()

    def _attention(self, pairs: Tensor, group: int = 1) -> Callable[[], None]:
        """Decoding over them."""
        grains, _, tokens, head_dim = pairs.shape
        queries, out = (torch.randn(grains, group, head_dim).to(pairs.dtype) for _ in range(2))
        pads = torch.zeros(grains, dtype=torch.int64)
        attention = HostAttention(queries, pairs, pads, AttentionRule(head_dim**-0.5), out, self.env.num_threads)
        return lambda: attention(tokens)

    def _roof(self, attend: Callable[[], None], nbytes: int) -> Figure:
        """What host memory gives to attention and a copy at the same time, in all."""
        here, there = (torch.zeros(self.sizes.copy_bytes, dtype=torch.uint8) for _ in range(2))
        with _Repeated(lambda: _pieces(here, there)) as copies:
            began_s, before = time.perf_counter(), copies.count
            attended = self._rate(nbytes, attend)
            copied = (copies.count - before) * len(here) / (time.perf_counter() - began_s)
        return Figure(attended.value + copied, attended.spread_percent)

    # -- the disk ------------------------------------------------------------------------------------------------
    def disk(self) -> Figures:
        """Transfers of the runtime's own file, long and of one request, past the page cache where that is allowed."""
        nbytes = self.sizes.disk_bytes
        data = aligned_bytes(nbytes)
        data.random_()
        file = ScratchFile(self.env.offload_dir, nbytes)
        try:
            written = self._rate(nbytes, lambda: file.write(0, data))
            read = self._rate(nbytes, lambda: file.read(0, data))
            starts = cycle(range(0, nbytes, DISK_REQUEST_BYTES))

            def read_one() -> None:
                start = next(starts)
                file.read(start, data[start : start + DISK_REQUEST_BYTES])

            one = self._rate(DISK_REQUEST_BYTES, read_one)
        finally:
            file.close()
        return {
            "disk_write_bytes_per_s": written,
            "disk_read_bytes_per_s": read,
            "disk_one_read_bytes_per_s": one,
        }

    # -- tools -------------------------------------------------------------------------------------------------------
    def _random(self, rows: int, cols: int) -> Tensor:
        return torch.empty(rows, cols, dtype=self.dtype, device=self.device).normal_()

    def _rate(self, amount: float, act: Callable[[], object]) -> Figure:
        return rate_of(amount, act, self.device, self.sizes.repeat_s)


class _Repeated:
    """Does something over and over on a thread of its own, until the end of a ``with``."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.count = 0
        self._act = act
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="flexplan-copies", daemon=True)

    def _main(self) -> None:
        while not self._stop.is_set():
            self._act()
            self.count += 1

    def __enter__(self) -> _Repeated:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(60)


def _pieces(out: Tensor, data: Tensor) -> None:
    """A copy in the pieces that weights travel in."""
    for start in range(0, len(out), PIECE_BYTES):
        out[start : start + PIECE_BYTES].copy_(data[start : start + PIECE_BYTES], non_blocking=True)


def _larger(one: Figure, other: Figure) -> Figure:
    return max(one, other, key=lambda figure: figure.value)
