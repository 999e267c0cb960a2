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

_BATCHES = 2, 4, 8, 16, 32
_PARTS = 1.0, 0.75, 0.5, 0.3  # of the seats that memory has room for
_FEW, _MORE = 4, 8  # passes that stand for a job: to count its work by, and to simulate
_SMALLER = 8  # steps of the weights on the gpu, where a policy turns out too large
_LESS = 1.0, 0.98, 0.95, 0.9, 0.8  # of its seats
_TRIES = 4  # policies that are simulated of all that lie next to one
_CACHE = 0.0, 5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0  # percent of the cache on the gpu
_ROOMS = 25.0, 50.0, 100.0, 200.0, 0.0  # percent of a mean answer that a seat has room for; 0 is all that may be
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
        begin = self._judged(self._beginnings(), inf)
        if not begin:
            return None
        seconds, policy = begin[0]
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

    def _judged(self, policies: Iterator[Policy], most: float) -> list[tuple[float, Policy]]:
        """The few that promise most of those that may take less than ``most`` seconds, simulated, the fastest first."""
        promised = sorted({policy: self.least(policy) for policy in policies}.items(), key=lambda pair: pair[1])
        found = [(self.seconds(policy), policy) for policy, least in promised[:_TRIES] if least < most]
        return sorted(found, key=lambda pair: pair[0])

    # -- which to try ---------------------------------------------------------------------------------------------
    def _beginnings(self) -> Iterator[Policy]:
        rows = self.problem.workload.num_prompts or _MOST_ROWS
        for host in self.host_attention:
            for n in _BATCHES:
                if n > rows:
                    break
                plain = Policy(1, n, w_gpu_percent=0, w_cpu_percent=100, cpu_cache_compute=host, **self.lossy)
                if host:
                    plain = replace(plain, cache_gpu_percent=0, cache_cpu_percent=100)
                room = 100.0 if self.problem.workload.expected_lens else 0.0
                plain = replace(plain, sep_layer=self.sep_layer[0], room_percent=room)
                most = self._most_rows(plain, -(-rows // n))
                for size in sorted({max(1, round(most * part)) for part in _PARTS} if most else ()):
                    fitted = self.fitted(replace(plain, gpu_batch_size=size))
                    if fitted is not None:
                        yield fitted

    def _neighbours(self, policy: Policy) -> Iterator[Policy]:
        size, n = policy.gpu_batch_size, policy.num_gpu_batches
        for other_size, other_n in _other_blocks(size, n):
            yield from self._some(replace(policy, gpu_batch_size=other_size, num_gpu_batches=other_n))
        if policy.cpu_cache_compute:
            for percent in _around(policy.cache_gpu_percent, _CACHE):
                yield from self._some(replace(policy, cache_gpu_percent=percent, cache_cpu_percent=100 - percent))
        for room in _ROOMS:
            yield from self._some(self._with_room(policy, room))
        for admit in (0, *(round(times * self._steady_tokens(policy)) for times in _ADMIT)):
            yield from self._some(replace(policy, admit_tokens=admit))
        for split in self.sep_layer:
            yield from self._some(replace(policy, sep_layer=split))

    def _with_room(self, policy: Policy, percent: float) -> Policy:
        """As many more or fewer seats as take as many tokens."""
        other = replace(policy, room_percent=percent)
        tokens = [sum(b.num_rows * b.prompt_len for b in self._block(one).batches) for one in (policy, other)]
        return replace(other, gpu_batch_size=max(1, round(policy.gpu_batch_size * tokens[0] / tokens[1])))

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
    def _most_rows(self, policy: Policy, most: int) -> int:
        """Rows of a micro-batch at the most that fit in some way; 0 where not even one does."""
        low, high = 0, min(most, _MOST_ROWS)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.fitted(replace(policy, gpu_batch_size=middle)) is not None
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


def _other_blocks(size: int, n: int) -> Iterator[tuple[int, int]]:
    """More and fewer seats, and as many in other micro-batches."""
    seen = {(size, n)}
    for some in (0.8, 0.9, 0.95, 1.05, 1.1, 1.25):
        seen.add((max(1, round(size * some)), n))
    for other in (n - 1, n + 1, n // 2, 2 * n, (3 * n) // 2):
        if other > 0:
            seen |= {(size, other), (max(1, size * n // other), other)}
    yield from sorted(seen - {(size, n)})


def _around(value: float, choices: Sequence[float]) -> list[float]:
    """The choices next to a value."""
    below, above = [c for c in choices if c < value], [c for c in choices if c > value]
    return [*below[-1:], *above[:1]]
