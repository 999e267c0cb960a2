"""Seconds of passes, affine in the shares: works of `flexplan.cost.work`, summed by lane over a pass.

Nothing is priced twice: every coefficient is the work that the schedule's tasks declare at a corner (all
of the weights on disk, all of the cache on the host, ...), priced by `Rates`.  Between the corners the
work is affine in the shares.  A lane's row is a lower bound of what the simulator finds: its waits are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import product

from flexplan.cost import Rates
from flexplan.cost import work as cost
from flexplan.graph import (
    CPU,
    D2H,
    DISK_READ,
    DISK_WRITE,
    GPU,
    H2D_CACHE,
    H2D_SMALL,
    H2D_WEIGHTS,
    HOST_COPY,
    NOTHING,
    Work,
)
from flexplan.placement import ID_BYTES, values_read
from flexplan.problem import Problem
from flexplan_planners.lp.rows import ONE, Row
from flexplan_planners.lp.switches import CacheHome, Switches


class PassWork:
    """The work of pass i over one micro-batch, or of its weights over the block, by lane and resource."""

    def __init__(self, problem: Problem, rates: Rates, rows: int, i: int, prompt: int) -> None:
        self.shape = problem.model
        self.rates = rates
        self.rows_of_batch = rows
        self.i = i
        self.new = prompt if i == 0 else 1
        self.context = prompt + i
        self._known: dict[tuple[object, ...], dict[str, Row]] = {}

    @cached_property
    def tokens(self) -> int:
        return self.rows_of_batch * self.new

    @cached_property
    def attended(self) -> float:
        """Tokens of the context that a layer reads, on average."""
        return self.shape.mean_attended(self.context)

    @cached_property
    def grains(self) -> int:
        return self.rows_of_batch * self.shape.num_kv_heads

    def works(self, s: Switches) -> tuple[dict[str, Row], ...]:
        """Seconds of every lane and resource, of each thing that a pass does for one setting of the switches."""
        split = s.cache if self.i and s.splits_steps else "gpu"
        packed = tuple(zip(s.layer_bytes, s.unpacked_bytes, strict=True)) if any(s.unpacked_bytes) else ()
        works = [self._once(self._ids, s.weights_stay)]
        works.append(self._once(self._compute, s.sep_layer, split, s.pair_bytes, s.attn_sparsity, packed))
        if not s.weights_stay:
            streamed = s.streamed_bytes, s.num_streamed_layers
            on_demand = s.experts_on_demand and self.i > 0
            works.append(self._once(self._weights, *streamed, s.disk != "none", s.pin_weight, on_demand))
        if s.cache != "gpu":
            works.append(self._once(self._cache, s.cache, s.cache_on_disk, s.pair_bytes, s.attn_sparsity))
        if not s.act_stays:
            works.append(self._once(self._hidden, s.num_layers))
        return tuple(works)

    def _once(self, verb: Callable[..., None], *given: object) -> dict[str, Row]:
        """The rows of a verb; it is given all that they depend on, so that most settings share them."""
        key = (verb.__name__, *given)
        if key not in self._known:
            sums = _Sums(self.rates)
            verb(sums, *given)
            self._known[key] = sums.rows()
        return self._known[key]

    # -- weights: once a block -----------------------------------------------------------------------------------
    def _weights(self, sums: _Sums, nbytes: int, layers: int, from_disk: bool, pinned: bool, on_demand: bool) -> None:
        """load(w) = streamed bytes * (w_cpu + w_disk) / link, read(w) = streamed bytes * w_disk / disk.

        What comes on demand is less, and waited for between two tasks that compute.
        """
        work = cost.experts_work(self.shape, nbytes, self.tokens) if on_demand else cost.up_work(nbytes)
        sums.block("w_cpu", H2D_WEIGHTS, work, chained=on_demand)
        sums.block("w_disk", H2D_WEIGHTS, cost.up_work(nbytes))
        sums.block("w_disk", DISK_READ, cost.read_work(nbytes))
        sums.fixed(H2D_WEIGHTS, layers, chained=on_demand)
        if from_disk:
            sums.fixed(H2D_WEIGHTS, layers)
            sums.fixed(DISK_READ, layers)
        if not pinned:
            sums.block("w_cpu", HOST_COPY, cost.copy_work(nbytes))

    # -- keys and values: every micro-batch ------------------------------------------------------------------------
    def _cache(self, sums: _Sums, home: CacheHome, on_disk: bool, pair_bytes: int, sparsity: float) -> None:
        """New tokens go to their home; old ones come to where attention reads them."""
        layers, new = self.shape.num_layers, self.grains * self._kept(self.new) * pair_bytes
        old = self.grains * self._kept(self.context - 1) * pair_bytes
        sums.fixed(D2H, layers)
        for share in ("cache_cpu", "cache_disk"):
            sums.batch(share, D2H, cost.down_work(new), layers)
        sums.batch("cache_disk", DISK_WRITE, cost.write_work(new), layers)
        if on_disk:
            sums.fixed(DISK_WRITE, layers)
        if not self.i:
            return
        sums.batch("cache_disk", DISK_READ, cost.read_work(old), layers)
        if on_disk:
            sums.fixed(DISK_READ, layers)
        if home == "host":
            self._host_attention(sums, pair_bytes, sparsity)
            return
        if sparsity < 1:
            values = self.grains * self._chosen(sparsity) * pair_bytes / 2
            sums.fixed(H2D_CACHE, layers, chained=True)
            sums.batch("cache_cpu", H2D_CACHE, cost.up_work(values), layers, chained=True)
            old /= 2  # keys alone
        sums.fixed(H2D_CACHE, layers)
        for share in ("cache_cpu", "cache_disk"):
            sums.batch(share, H2D_CACHE, cost.up_work(old), layers)

    def _kept(self, tokens: int) -> float:
        """Of a row's tokens those that a layer keeps, on average."""
        return self._mean(lambda depth: self.shape.kept(depth, tokens))

    def _chosen(self, sparsity: float) -> float:
        """Old values of a grain that a layer streams, on average."""
        return self._mean(lambda depth: values_read(sparsity, self.shape.kept(depth, self.context) - 1))

    def _mean(self, of_layer: Callable[[int], float]) -> float:
        """Of all layers; without windows they are alike."""
        layers = range(self.shape.num_layers if self.shape.windows else 1)
        return sum(map(of_layer, layers)) / len(layers)

    def _host_attention(self, sums: _Sums, pair_bytes: int, sparsity: float) -> None:
        """Queries down, attention over the keys and values where they live, its result up."""
        layers = self.shape.num_layers
        queries = self.rows_of_batch * self.shape.q_size * self.shape.bytes_per_element
        works = (
            (D2H, cost.down_work(queries)),
            (CPU, cost.host_attention_work(self.shape, self.grains, self.attended, pair_bytes, sparsity)),
            (H2D_SMALL, cost.up_work(queries)),
        )
        for lane, work in works:
            sums.fixed(lane, layers, chained=True)
            for share in ("cache_cpu", "cache_disk"):
                sums.batch(share, lane, work, layers, chained=True)

    # -- hidden states and token ids -------------------------------------------------------------------------------
    def _hidden(self, sums: _Sums, num_layers: int) -> None:
        """Between two layers, hidden states go home and come back."""
        times = num_layers - 1
        nbytes = self.tokens * self.shape.hidden_size * self.shape.bytes_per_element
        for lane, disk_lane, move, disk in (
            (D2H, DISK_WRITE, cost.down_work(nbytes), cost.write_work(nbytes)),
            (H2D_SMALL, DISK_READ, cost.up_work(nbytes), cost.read_work(nbytes)),
        ):
            sums.fixed(lane, times, chained=True)
            sums.batch("act_cpu", lane, move, times, chained=True)
            sums.batch("act_disk", lane, move, times, chained=True)
            sums.batch("act_disk", disk_lane, disk, times, chained=True)

    def _ids(self, sums: _Sums, weights_stay: bool) -> None:
        if not self.i:
            sums.task(H2D_SMALL, cost.up_work(self.tokens * ID_BYTES))
        sums.task(D2H, cost.down_work(self.rows_of_batch * ID_BYTES))
        if not weights_stay:  # rows of the token table are gathered on the host
            nbytes = self.tokens * self.shape.embed_size * self.shape.bytes_per_element
            sums.task(CPU, cost.copy_work(nbytes))
            sums.task(H2D_SMALL, cost.up_work(nbytes))

    def _prompt_attention(self) -> Work:
        """Of a layer, on average."""
        s, found = self.shape, NOTHING
        for read, count in Counter(s.attended(depth, self.new) for depth in range(s.num_layers)).items():
            work = cost.prompt_attention_work(s, self.rows_of_batch, self.new, read)
            found = found.plus(Work(*(part * count / s.num_layers for part in work)))
        return found

    # -- compute -----------------------------------------------------------------------------------------------------
    def _compute(
        self,
        sums: _Sums,
        sep_layer: bool,
        split: CacheHome,
        pair_bytes: int,
        sparsity: float,
        packed: Sequence[tuple[int, int]],
    ) -> None:
        """Roofline of each task, unpacking of layers included; of attention only what the gpu does.

        ``split`` says where what a split step attends to beside the gpu's part is, "gpu" that no step is split.
        """
        s, layers = self.shape, self.shape.num_layers
        project, merge, mlp = (work(s, self.tokens) for work in (cost.project_work, cost.merge_work, cost.mlp_work))
        if self.i == 0:
            attention = self._prompt_attention()
        else:
            attention = cost.gpu_attention_work(s, self.grains, self.attended, pair_bytes, sparsity)
        for stored, unpacked in packed:
            if unpacked:
                sums.once(GPU, cost.unpack_work(stored, unpacked))
        sums.task(GPU, cost.embed_work(s, self.tokens))
        sums.task(GPU, cost.head_work(s, self.rows_of_batch))
        rest = merge if sep_layer else merge.plus(mlp)
        begun = project.plus(Work(kernels=attention.kernels))  # the gpu attends however small its share is
        if split == "host":
            sums.roofline(begun, "cache_gpu", attention, layers)
            sums.task(GPU, rest, layers)
        elif split == "stream":
            keys = cost.gpu_attention_work(s, self.grains, self.attended, pair_bytes, 0.0)
            values = cost.chosen_values_work(s, self.grains, self.attended, pair_bytes, sparsity)
            sums.roofline(begun.plus(keys), "cache_gpu", values, layers)
            sums.roofline(rest, "cache_cpu", values, layers)
        else:
            sums.task(GPU, project.plus(attention).plus(rest), layers)
        if sep_layer:
            sums.task(GPU, mlp, layers)


def _roofs_of(work: Work) -> Work:
    """What a roofline bounds."""
    return Work(gpu_flops=work.gpu_flops, gpu_bytes=work.gpu_bytes)


class _Sums:
    """Adds up tasks by lane and by resource, and those that wait for each other in the ``chain``."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self.parts: dict[str, tuple[dict[str, float], dict[str, float], dict[str, float]]] = {}
        self.roofs: list[tuple[tuple[str, float, float], ...]] = []  # of each task: share, base and slope a roof

    def _add(self, row: str, part: int, name: str, seconds: float) -> None:
        terms = self.parts.setdefault(row, ({}, {}, {}))[part]
        terms[name] = terms.get(name, 0.0) + seconds

    def _work(self, part: int, name: str, lane: str, work: Work, times: int) -> float:
        """A share's work, its fixed time apart; the seconds of one such task alone."""
        price = self.rates.price(work, lane)
        alone = price.solo_s - self.rates.fixed_s[lane]
        self._add(lane, part, name, times * alone)
        for resource, seconds in price.demands:
            if resource not in (lane, GPU):
                self._add(resource, part, name, times * seconds)
        return times * alone

    def block(self, share: str, lane: str, work: Work, *, chained: bool = False) -> None:
        """Work that all of this share makes once a block."""
        seconds = self._work(0, share, lane, work, 1)
        if chained:
            self._add("chain", 0, share, seconds)

    def once(self, lane: str, work: Work) -> None:
        """A whole task once a block."""
        self._work(0, ONE, lane, work, 1)
        self._add(lane, 0, ONE, self.rates.fixed_s[lane])

    def batch(self, share: str, lane: str, work: Work, times: int, *, chained: bool = False) -> None:
        """Work that all of this share makes ``times`` a micro-batch."""
        seconds = self._work(1, share, lane, work, times)
        if chained:
            self._add("chain", 2, share, seconds)

    def fixed(self, lane: str, times: int, *, chained: bool = False) -> None:
        """The fixed time of ``times`` tasks of a micro-batch."""
        seconds = times * self.rates.fixed_s[lane]
        self._add(lane, 1, ONE, seconds)
        if chained:
            self._add("chain", 0, ONE, seconds)

    def task(self, lane: str, work: Work, times: int = 1) -> None:
        """``times`` whole tasks a micro-batch, whatever the shares."""
        seconds = self._work(1, ONE, lane, work, times)
        self._add("chain", 0, ONE, seconds)
        self.fixed(lane, times, chained=True)

    def roofline(self, work: Work, share: str, more: Work, times: int) -> None:
        """Tasks whose work grows with a share: their operations and their bytes bound the gpu apart."""
        self.task(GPU, work, times)
        products_s = self.rates.demands(_roofs_of(work))[GPU]
        packed_s = self.rates.demands(Work(gpu_packed_bytes=more.gpu_packed_bytes))[GPU] * times
        roofs = []
        for roof, part in (("gpu_flops", Work(gpu_flops=1)), ("gpu_bytes", Work(gpu_bytes=1))):
            rate = self.rates.demands(part)[GPU]
            base, slope = (getattr(w, roof) * rate * times for w in (work, more))
            roofs.append((share, base - products_s * times, slope + packed_s))
        self.roofs.append(tuple(roofs))

    def rows(self) -> dict[str, Row]:
        """One row a lane and resource; where shares bend rooflines on the gpu, one more for every choice of roofs."""
        rows = {name: Row(*parts) for name, parts in self.parts.items()}
        gpu = rows.get(GPU)
        for n, roofs in enumerate(product(*self.roofs) if self.roofs else ()):
            assert gpu is not None, "a task with a roofline is on the gpu"
            batch = dict(gpu.batch)
            for share, base, slope in roofs:
                batch[ONE] += base
                batch[share] = batch.get(share, 0.0) + slope
            rows[f"gpu_roof{n}"] = Row(gpu.block, batch, gpu.once)
        return rows
