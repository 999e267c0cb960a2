"""FlexLLMGen's cost model, rewritten from its formulas with the constants of its T4 machine: a test oracle.

s prompt and n output tokens, h1 hidden, h2 ffn, nh heads, l layers, gbs micro-batch, bls block; GiB and TFLOP/s.
One layer's weights are wi = 8 h1^2 + 4 h1 h2 bytes.  The model always has the host attend, never uses
part of the disk for activations (hg + hc = 1), and allows 80 % of each tier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import log2

from flexplan_planners.lp import ONE, Program
from flexplan_planners.lp.rows import Phase, Row

GIB, TERA = 2.0**30, 1e12

CTOG, GTOC_CACHE, GTOC_HIDDEN = 12.89 * GIB, 0.97 * GIB, 4.82 * GIB
DTOC, CTOD_CACHE_P, CTOD_HIDDEN_P, CTOD_G = 0.473 * GIB, 0.746 * GIB, 2.015 * GIB, 2.015 * GIB
MM_P, MM_G, BMM_P, BMM_G, CPU = 21.24 * TERA, 4.3 * TERA, 9.97 * TERA, 0.079 * TERA, 0.0123 * TERA
C1, C2, C3 = 0.0168, 0.0328, 0.0621
ALPHA = 0.8

OPT = {  # layers, hidden, ffn, heads
    "6.7B": (32, 4096, 16384, 32),
    "13B": (40, 5120, 20480, 40),
    "30B": (48, 7168, 28672, 56),
    "66B": (64, 9216, 36864, 72),
    "175B": (96, 12288, 49152, 96),
}

Terms = dict[str, float]


def host_flops_per_s(gbs: int, h1: int) -> float:
    """cpu_real: slower for small micro-batches and small models."""
    a, b = max(0.0, log2(64 / gbs)), max(0.0, log2(4096 / h1))
    return CPU * max(0.1, 1 + C1 * a * b - C2 * a - C3 * b)


def added(*parts: Terms) -> Terms:
    """Terms summed up."""
    found: Terms = {}
    for part in parts:
        for name, c in part.items():
            found[name] = found.get(name, 0.0) + c
    return found


def row(*, block: Iterable[Terms] = (), batch: Iterable[Terms] = (), once: Iterable[Terms] = ()) -> Row:
    return Row(added(*block), added(*batch), added(*once))


def off(what: str, c: float) -> Terms:
    """On the host or the disk."""
    return {f"{what}_cpu": c, f"{what}_disk": c}


@dataclass(frozen=True)
class ReferenceModel:
    """The programs of the reference; batch terms are per micro-batch, bls = num_gpu_batches * gbs."""

    size: str = "30B"
    s: int = 512
    n: int = 32
    gpu_gib: float = 16
    cpu_gib: float = 200
    disk_gib: float = 1500
    most_batches: int = 1000

    def batch_sizes(self) -> Iterable[int]:
        return [*range(1, 65), 96, 128, 192, 256]

    def programs(self, gpu_batch_size: int) -> list[Program]:
        layers = OPT[self.size][0]
        phases = (
            Phase("prefill", layers, (self.prefill(gpu_batch_size),)),
            Phase("decode", layers * (self.n - 1), (self.decode(gpu_batch_size),)),
        )
        budgets = {"gpu": self.gpu_gib, "cpu": self.cpu_gib, "disk": self.disk_gib}
        rows = self.memory(gpu_batch_size)
        limits = {name: ALPHA * GIB * budgets[name.partition("_")[0]] for name in rows}
        absent = frozenset({"act_disk"})
        return [Program(gpu_batch_size, phases, rows, limits, self.most_batches, absent)]

    def alike(self, gpu_batch_size: int, like: Program) -> list[Program]:
        return self.programs(gpu_batch_size)

    def within(self, budgets: Mapping[str, float]) -> ReferenceModel:
        gib = {f"{tier}_gib": nbytes / GIB / ALPHA for tier, nbytes in budgets.items()}
        return replace(self, **gib)

    def prefill(self, gbs: int) -> dict[str, Row]:
        """Tpre = max(ctog_p + dtoc_p, gtoc_p + ctod_p, comp_p)."""
        _, h1, h2, _ = OPT[self.size]
        s, wi, hidden = self.s, 8.0 * h1**2 + 4.0 * h1 * h2, 2.0 * self.s * h1 * gbs
        cache = 4.0 * (s + 1) * h1 * gbs
        ctog_w, ctog_h = off("w", wi / CTOG), off("act", hidden / CTOG)
        dtoc_w, dtoc_h = {"w_disk": wi / DTOC}, {"act_disk": hidden / DTOC}
        gtoc = [off("cache", cache / GTOC_CACHE), off("act", hidden / GTOC_HIDDEN)]
        ctod = [{"cache_disk": cache / CTOD_CACHE_P}, {"act_disk": hidden / CTOD_HIDDEN_P}]
        comp = gbs * (8.0 * s * h1**2 + 4.0 * s * h1 * h2) / MM_P + 4.0 * gbs * s**2 * h1 / BMM_P
        return {
            "ctog+dtoc": row(block=[ctog_w, dtoc_w], batch=[ctog_h, dtoc_h]),
            "gtoc+ctod": row(batch=[*gtoc, *ctod]),
            "comp": row(batch=[{ONE: comp}]),
        }

    def decode(self, gbs: int) -> dict[str, Row]:
        """Tgen = ctog_g + max(gtoc_g, dtoc_g, ctod_g, comp_g)."""
        _, h1, h2, _ = OPT[self.size]
        wi, hidden = 8.0 * h1**2 + 4.0 * h1 * h2, 2.0 * h1 * gbs
        cache = 4.0 * gbs * (self.s + self.n / 2) * h1
        ctog_w, ctog_h = off("w", wi / CTOG), off("act", hidden / CTOG)
        gtoc = off("act", hidden / GTOC_HIDDEN)
        dtoc = added({"cache_disk": cache / DTOC}, {"act_disk": hidden / DTOC})
        ctod = added({"cache_disk": 4.0 * gbs * h1 / CTOD_G}, {"act_disk": hidden / CTOD_G})
        products = gbs * (8.0 * h1**2 + 4.0 * h1 * h2) / MM_G
        comp = added({ONE: products, "cache_gpu": cache / BMM_G}, off("cache", cache / host_flops_per_s(gbs, h1)))
        return {
            "gtoc": row(block=[ctog_w], batch=[ctog_h, gtoc]),
            "dtoc": row(block=[ctog_w, {"w_disk": wi / (0.95 * DTOC)}], batch=[ctog_h, dtoc]),
            "ctod": row(block=[ctog_w], batch=[ctog_h, ctod]),
            "comp": row(block=[ctog_w], batch=[ctog_h, comp]),
        }

    def memory(self, gbs: int) -> dict[str, Row]:
        """home + work of each tier, in prefill and decode."""
        layers, h1, h2, nh = OPT[self.size]
        s, n, wi = self.s, self.n, 8.0 * h1**2 + 4.0 * h1 * h2
        cache = 4.0 * (s + n) * h1 * gbs * layers
        home, ring = {"w_gpu": wi * layers}, off("w", 2 * wi)
        inter_p = gbs * (
            8.0 * s * h1 + (2 * s * h1 + 2 * nh * s**2) + 2 * s * h1 + 4 * s * h1 + 2 * s * h2 + 2 * s * h1
        )
        attention = gbs * ((2.0 * h1 + 2 * (s + n) * h1 + 2 * nh * (s + n)) + (2.0 * (s + n) * h1 + 2 * h1))
        inter_g = 8.0 * gbs * h1 + 4 * gbs * h1 + 2 * gbs * h2 + 2 * gbs * h1
        attended = {"cache_gpu": 4.0 * gbs * (s + n) * h1 + attention}
        cpu_work = 2.0 * nh * (s + n) * gbs + 2 * h1 * gbs
        return {
            "gpu_prefill": row(
                block=[home, ring, {ONE: inter_p}],
                batch=[{"act_gpu": 2.0 * s * h1 * gbs, "cache_gpu": cache}],
                once=[off("act", 2.0 * s * h1 * gbs)],
            ),
            "gpu_decode": row(
                block=[home, ring, {ONE: inter_g}],
                batch=[{"act_gpu": 2.0 * h1 * gbs, "cache_gpu": cache}],
                once=[off("act", 2.0 * h1 * gbs), attended],
            ),
            "cpu_prefill": row(
                block=[{"w_cpu": wi * layers}, off("w", wi)],
                batch=[{"act_cpu": 2.0 * s * h1 * gbs, "cache_cpu": 4.0 * s * h1 * gbs * layers}],
                once=[off("act", 2.0 * s * h1 * gbs)],
            ),
            "cpu_decode": row(
                block=[{"w_cpu": wi * layers, "w_disk": wi, ONE: cpu_work}],
                batch=[{"act_cpu": 2.0 * h1 * gbs, "cache_cpu": cache}],
                once=[{"act_disk": 4.0 * h1 * gbs, "cache_disk": 8.0 * (s + n) * h1 * gbs}],
            ),
            "disk": row(
                block=[{"w_disk": wi * layers}],
                batch=[{"act_disk": 2.0 * s * h1 * gbs, "cache_disk": cache}],
            ),
        }
