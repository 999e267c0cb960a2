"""The search for rolling policies: seats as memory has room for, percents that fill the budgets, judged by simulation.

In the steady state there is one kind of pass, so few numbers decide: how many seats in how many micro-batches, which
part of the cache is on the gpu, and how much comes in at a time.  Weights take what the gpu has left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import inf
from typing import Any

from flexplan.placement import splits
from flexplan.policy import Block, Policy, rolling_block
from flexplan.problem import Problem, Workload
from flexplan.sandbox import schedule_of
from flexplan.simulation import job_time, least_job_s, peak_bytes
from flexplan.units import round_up

_BATCHES = 1, 2, 3, 4, 6, 8
_FEW, _MORE = 4, 8  # passes that stand for a job: to count its work by, and to simulate
_SMALLER = 8  # steps of the weights on the gpu, where a policy turns out too large
_LESS = 1.0, 0.98, 0.95, 0.9, 0.8  # of its seats
_LITTLE_LESS = 1.0, 0.97, 0.94, 0.9
_FIRST_TRIES, _TRIES = 1, 3  # policies that are simulated of all of as many micro-batches, and of all next to one
_SIZES = 0.8, 0.9, 0.95, 1.05, 1.1, 1.25  # times as many rows in a micro-batch
_CACHE = 0.0, 5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0  # percent of the cache on the gpu
_ROOMS = 25.0, 35.0, 50.0, 100.0, 200.0, 0.0  # percent of a mean answer that a seat has room for; 0 is all that may be
_FIRST_ROOMS = 0.0, 35.0, 100.0
_ADMIT = 1.1, 1.5, 2.5  # times the prompts that come in when as many leave
_WORTH = 0.995
_MOST_ROWS = 4096  # of a micro-batch
_REQUESTS = 1500  # that stand for more
_SHALLOW = 8  # layers
_ROUNDED = 1.0005  # what layers differ by
_FULL = 0.999  # of a budget: weights are cut by rows


class RollingSearch:
    """Rolling policies of one problem; all that is asked of them is remembered."""

    def __init__(
        self,
        problem: Problem,
        host_attention: Sequence[bool],
        sep_layer: Sequence[bool],
        lossy: Mapping[str, Any],
        rounds: int,
    ) -> None:
        self.whole = problem
        self.problem = thinned(problem)
        self.rounds = rounds
        self.host_attention = tuple(host_attention)
        self.sep_layer = splits(problem.model, sep_layer)
        self.lossy = {name: value for name, value in lossy.items() if name != "attn_sparsity"}
        self.budgets = problem.budgets()
        self.schedule = schedule_of("rolling")
        self.fitted = cache(self._fitted)
        self.least = cache(self._least)
        self.seconds = cache(self._seconds)

    def best(self) -> Policy | None:
        """The fastest; None where nothing fits."""
        by_count = dict[int, list[Policy]]()  # what few and many micro-batches wait, only a simulation tells
        for policy in self._beginnings():
            by_count.setdefault(policy.num_gpu_batches, []).append(policy)
        begin = [pair for some in by_count.values() for pair in self._judged(iter(some), inf, _FIRST_TRIES)]
        if not begin:
            return None
        seconds, policy = min(begin, key=lambda pair: pair[0])
        for _ in range(self.rounds):
            near = self._judged(self._neighbours(policy), seconds * _WORTH)
            if not near or near[0][0] >= seconds * _WORTH:
                break
            seconds, policy = near[0]
        return self._exact(policy)

    def _exact(self, policy: Policy) -> Policy | None:
        """The policy as the whole list and all layers count it, a little smaller where that is more."""
        for part in _LESS:
            found = replace(policy, gpu_batch_size=max(1, round(part * policy.gpu_batch_size)))
            for less in range(_SMALLER):
                gpu = max(0.0, _cut(policy.w_gpu_percent - 0.2 * less))
                found = replace(found, w_gpu_percent=gpu, w_cpu_percent=_cut(found.w_cpu_percent))
                if not policy.w_disk_percent:
                    found = replace(found, w_cpu_percent=100 - gpu)
                need = peak_bytes(self.whole, found, self.schedule)
                if self._within(need):
                    return found
                if need["gpu"] <= self.budgets["gpu"]:  # fewer weights there would only be more elsewhere
                    break
        return None

    def _judged(self, policies: Iterator[Policy], most: float, tries: int = _TRIES) -> list[tuple[float, Policy]]:
        """The few that promise most of those that may take less than ``most`` seconds, simulated, the fastest first."""
        promised = sorted({policy: self.least(policy) for policy in policies}.items(), key=lambda pair: pair[1])
        found = [(self.seconds(policy), policy) for policy, least in promised[:tries] if least < most]
        return sorted(found, key=lambda pair: pair[0])

    # -- which to try ---------------------------------------------------------------------------------------------
    def _beginnings(self) -> Iterator[Policy]:
        """As many seats as there is room for, in few and many micro-batches, for more and less of an answer."""
        rows = self.problem.workload.num_prompts or _MOST_ROWS
        for host in self.host_attention:
            full = self._full(host, rows)
            if full is None:
                continue
            for n in (n for n in _BATCHES if n <= rows):
                for room in self._first_rooms():
                    yield from self._as_many_tokens(replace(full, num_gpu_batches=n, room_percent=room), full)
                # who all are alike come and go together: as many rounds by the fewest rows
                size = max(1, full.block_size // n)
                even = replace(full, num_gpu_batches=n, gpu_batch_size=-(-rows // (n * -(-rows // (n * size)))))
                yield from self._some(even)

    def _first_rooms(self) -> tuple[float, ...]:
        work = self.problem.workload
        return _FIRST_ROOMS if work.prompt_lens or work.gen_lens or work.expected_lens else (0.0,)

    def _full(self, host: bool, rows: int) -> Policy | None:
        """As many seats as fit beside all weights in memory; where those do not fit, with the rest on disk."""
        room = 100.0 if self.problem.workload.expected_lens else 0.0
        for n in (min(4, rows), 1):
            plain = Policy(1, n, w_gpu_percent=0, w_cpu_percent=100, cpu_cache_compute=host, **self.lossy)
            if host:
                plain = replace(plain, cache_gpu_percent=0, cache_cpu_percent=100)
            plain = replace(plain, sep_layer=self.sep_layer[0], room_percent=room)
            for on_disk in (False, True):
                size = self._most_rows(plain, -(-rows // n), on_disk=on_disk)
                if size:
                    return self.fitted(replace(plain, gpu_batch_size=size))
        return None

    def _neighbours(self, policy: Policy) -> Iterator[Policy]:
        size, n = policy.gpu_batch_size, policy.num_gpu_batches
        for other in sorted({max(1, round(size * part)) for part in _SIZES} - {size}):
            yield from self._some(replace(policy, gpu_batch_size=other))
        for other in sorted({n - 1, n + 1, n // 2, 2 * n} - {0, n}):
            even = replace(policy, num_gpu_batches=other, gpu_batch_size=max(1, size * n // other))
            yield from self._as_many_tokens(even, policy)
        if policy.cpu_cache_compute:
            for percent in _around(policy.cache_gpu_percent, _CACHE):
                yield from self._some(replace(policy, cache_gpu_percent=percent, cache_cpu_percent=100 - percent))
        for room in _ROOMS:
            if room != policy.room_percent:
                yield from self._as_many_tokens(replace(policy, room_percent=room), policy)
        for admit in (0, *(round(times * self._steady_tokens(policy)) for times in _ADMIT)):
            yield from self._some(replace(policy, admit_tokens=admit))
        for split in self.sep_layer:
            yield from self._some(replace(policy, sep_layer=split))

    def _as_many_tokens(self, policy: Policy, as_in: Policy) -> Iterator[Policy]:
        """With as many more or fewer seats as take as many tokens as those of another policy, or a little fewer."""
        now, most = (sum(b.num_rows * b.prompt_len for b in self._block(one).batches) for one in (policy, as_in))
        for part in _LITTLE_LESS:  # until no more weights are on disk for it
            size = max(1, int(part * policy.gpu_batch_size * most / now))
            found = self.fitted(replace(policy, gpu_batch_size=size))
            if found is not None and found.w_disk_percent <= as_in.w_disk_percent:
                yield found
                return

    def _block(self, policy: Policy) -> Block:
        return rolling_block(self.problem.workload, policy)

    def _some(self, policy: Policy) -> Iterator[Policy]:
        fitted = self.fitted(policy)
        if fitted is not None:
            yield fitted

    def _steady_tokens(self, policy: Policy) -> float:
        """Tokens of prompts in a pass in which as many come as go."""
        work = self.problem.workload
        rows = work.num_prompts or 1
        return max(1.0, policy.block_size * sum(work.prompt_lens_of(range(rows))) / work.new_tokens(rows))

    # -- what they take -------------------------------------------------------------------------------------------
    def _most_rows(self, policy: Policy, most: int, *, on_disk: bool) -> int:
        """Rows of a micro-batch at the most that fit, with or without weights on disk; 0 where not even one does."""
        low, high = 0, min(most, _MOST_ROWS)
        while low < high:
            middle = (low + high + 1) // 2
            found = self.fitted(replace(policy, gpu_batch_size=middle))
            fits = found is not None and (on_disk or not found.w_disk_percent)
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def _fitted(self, policy: Policy) -> Policy | None:
        """The policy with as much of the weights on the gpu as fits there, and the rest by speed; None if nothing."""
        none, all_ = (self._need(replace(policy, w_gpu_percent=w, w_cpu_percent=100 - w)) for w in (0.0, 100.0))
        gpu = _share(none["gpu"], all_["gpu"], self.budgets["gpu"])
        if gpu is None:
            return None
        for part in (1.0, 0.98, 0.95, 0.9, 0.8, 0.5, 0.0):
            found = self._with_the_rest(replace(policy, w_gpu_percent=_cut(part * gpu), w_cpu_percent=0.0))
            if found is not None:
                return found
        return None

    def _with_the_rest(self, policy: Policy) -> Policy | None:
        """The rest of the weights on the host, and what it has no room for on disk."""
        rest = 100 - policy.w_gpu_percent
        plain = replace(policy, w_cpu_percent=rest)
        need = self._need(plain)
        if self._within(need):
            return plain
        if need["gpu"] > self.budgets["gpu"] or not self.budgets["disk"]:
            return None
        less = self._need(replace(policy, w_cpu_percent=0.0))
        part = _share(less["cpu"], need["cpu"], self.budgets["cpu"])
        if part is None:
            return None
        found = replace(policy, w_cpu_percent=_cut(rest * part / 100))
        return found if self._within(self._need(found)) else None

    def _within(self, need: Mapping[str, float]) -> bool:
        return all(need[tier] <= most for tier, most in self.budgets.items())

    def _need(self, policy: Policy) -> Mapping[str, float]:
        """Bytes of each tier, by layers of all kinds and a turn or two of them more: each further one takes as much."""
        model = self.problem.model
        turns = round_up(2, model.layer_period)
        layers, few = model.num_layers, max(2, model.first_of_all_kinds)
        if layers <= max(_SHALLOW, few + turns):
            return peak_bytes(self.problem, policy, self.schedule)
        less, more = (peak_bytes(self.problem.with_layers(n), policy, self.schedule) for n in (few, few + turns))
        return {tier: less[tier] + (layers - few) / turns * _ROUNDED * (more[tier] - less[tier]) for tier in less}

    def _least(self, policy: Policy) -> float:
        return least_job_s(self.problem, policy, _FEW)

    def _seconds(self, policy: Policy) -> float:
        return job_time(self.problem, policy, _MORE).seconds


def thinned(problem: Problem) -> Problem:
    """The same with some of very many requests: in the steady state it is no matter how many there are."""
    work, step = problem.workload, -(-(problem.workload.num_prompts or 1) // _REQUESTS)
    if step == 1:
        return problem
    if not work.prompt_lens and not work.gen_lens:
        some = work.model_copy(update={"num_prompts": _REQUESTS})
    else:
        lens, gen_lens = (tuple(given[::step]) for given in (work.prompt_lens, work.gen_lens))
        some = Workload(
            prompt_len=work.prompt_len,
            gen_len=work.gen_len,
            prompt_lens=lens and (work.prompt_len, *lens[1:]),  # the longest are among them
            gen_lens=gen_lens and (*gen_lens[:-1], work.gen_len),
            expected_lens=work.expected_lens,
            expected_prompts=work.expected_prompts,
        )
    return problem.model_copy(update={"workload": some})


def _share(none: float, all_: float, most: float) -> float | None:
    """Percent of something that fits, where without it, and with all of it, so many bytes are needed."""
    if none > most:
        return None
    return 100.0 if all_ <= most else max(0.0, 100 * _FULL * (most - none) / (all_ - none))


def _cut(percent: float) -> float:
    return int(percent * 1000) / 1000


def _around(value: float, choices: Sequence[float]) -> list[float]:
    """The choices next to a value."""
    below, above = [c for c in choices if c < value], [c for c in choices if c > value]
    return [*below[-1:], *above[:1]]
