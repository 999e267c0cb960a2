"""Runtime: what the command line asks of a runtime, and what it hands back.

A runtime is a plug-in (group ``flexplan.runtimes``): this file is all that the two know of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from flexplan.errors import FlexplanError, PluginError, UsageError
from flexplan.graph import Span, Timeline
from flexplan.hardware import Hardware
from flexplan.job.completion import Completion
from flexplan.job.notebook import bench_html
from flexplan.job.standing import Standing, Usage
from flexplan.plan import Plan
from flexplan.plugins import RUNTIMES, make
from flexplan.policy import Policy
from flexplan.problem.prompts import Lengths, Prompt

Shares = Mapping[str, tuple[float, float, float]]  # "w", "cache", "act" -> percent on (gpu, cpu, disk)


class Listener(Protocol):
    """Is told how far a job is."""

    def stage(self, what: str) -> None:
        """A new stage begins: ``"loading weights"``."""

    def standing(self, now: Standing) -> None:
        """How far the run is after another pass; told before its tokens are."""

    def tokens(self, done: int, total: int) -> None:
        """So many tokens of all that may come."""


class JobListener(Listener, Protocol):
    """Is told of each request the moment it has ended; ``place`` is its place in the input, counted from 0."""

    def begin(self, settings: Mapping[str, str]) -> None:
        """All that can be refused is found right; weights are loaded next.  ``settings`` is what answers depend on."""

    def ended(self, place: int, completion: Completion) -> None:
        """A request is completed."""

    def failed(self, place: int, completion: Completion, error: FlexplanError) -> None:
        """A request cannot be completed; ``completion`` has the tokens that came before."""

    def shrunk(self, policy: Policy) -> None:
        """Memory gave out: blocks are those of this policy from here on."""

    def stopping(self) -> bool:
        """Asked after each pass: shall the job end?"""


@dataclass(frozen=True)
class Cluster:
    """Of the runtime `ray`: where it is, by default on this machine; how many workers, by default one a GPU."""

    address: str | None = None
    workers: int | None = None


@dataclass(frozen=True)
class RunRequest:
    """One job; sizes are bytes, None is no limit."""

    policy: Policy | Plan
    model: str
    prompts: Sequence[Prompt] = ()
    places: Sequence[int] = ()  # of each prompt in the input, rising; none given: 0, 1, 2 and so on
    skip: Collection[int] = frozenset()  # places of what an earlier run has done
    block: tuple[int, int] | None = None  # rows and micro-batches that it had memory for; None: the policy's
    strict: bool = False  # a prompt that cannot be run ends the job before it begins
    locked: bool = False  # the model's files are held against the SHA-256 sums of its lock first
    budgets: Mapping[str, int | None] = field(default_factory=dict)
    offload_dir: Path = Path("offload")
    device: str | None = None
    dtype: str | None = None
    packed_cache: Path | None = None  # a directory where packed weights are kept
    max_new_tokens: int = 32  # of prompts that do not say
    do_sample: bool = False
    temperature: float | None = None  # the model's own with do_sample, else 1
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop_at_end_token: bool = True
    dummy: bool = False
    cluster: Cluster | None = None  # for the runtime that spreads a job over machines
    dummy_prompt_len: int | None = None  # random prompts of this length where none are given
    dummy_lengths: Lengths | None = None  # or of these, and their new tokens
    record: bool = False  # the report is to have a `Recording`


@dataclass(frozen=True)
class RunReport:
    """What a job gave, and what it took: seconds, bytes of each tier at their highest, shares as placed."""

    completions: tuple[Completion, ...]
    load_s: float
    run_s: float
    timelines: tuple[Timeline, ...]
    realised: Shares
    peak_bytes: Mapping[str, int]
    dtype: str  # of weights, cache and activations where they are not packed

    @property
    def num_tokens(self) -> int:
        """New tokens of all prompts."""
        return sum(completion.num_tokens for completion in self.completions)


@dataclass(frozen=True)
class Recording:
    """What a page about a run needs: sums over all its blocks, and the tasks of a few passes of the first one.

    ``plan`` is for the very prompts that ran.  ``spans`` are in seconds from the start of the first block; ``memory``
    is (seconds from the first pass on, bytes of gpu, cpu and disk from that moment on), loading before 0.  ``standing``
    is (those seconds, new tokens so far, rows that live, tokens that their caches hold), some passes standing for all,
    beside the block's ``seats`` and the tokens that are ``reserved`` in them.  ``bound_s`` is what no order of the
    work could beat, for answers as long as they were; ``bound_limit`` the resource that sets it.
    """

    plan: Plan
    device: str
    dtype: str
    num_blocks: int
    num_tokens: int
    prefill_s: float
    decode_s: float
    lane_busy_s: Mapping[str, float]
    spans: tuple[Span, ...]
    memory: tuple[tuple[float, int, int, int], ...]
    standing: tuple[tuple[float, int, int, int], ...] = ()
    seats: int = 0
    reserved: int = 0
    usage: Usage | None = None
    bound_s: float | None = None
    bound_limit: str = ""


@dataclass(frozen=True)
class JobReport:
    """What a job took, whose requests went to its listener as they ended: counts, seconds, bytes at their highest."""

    num_prompts: int
    num_tokens: int
    num_left: int  # not ended, as the job was asked to stop
    load_s: float
    run_s: float
    peak_bytes: Mapping[str, int]
    recording: Recording | None = None
    usage: Usage | None = None
    bound_s: float | None = None  # what no order of the work could beat, for answers as long as they were
    bound_limit: str = ""


@dataclass(frozen=True)
class BenchReport:
    """A job, predicted and measured, its blocks one after the other; ``plan`` is for the very lengths that ran."""

    plan: Plan
    predicted: Timeline
    measured: Timeline
    run: RunReport
    moved: Mapping[str, tuple[int, int]]  # resource -> bytes by the plan, bytes counted where they moved
    device_peak_bytes: int | None = None  # what the device's allocator counted
    recording: Recording | None = None
    usage: Usage | None = None
    bound_s: float | None = None
    bound_limit: str = ""

    def _repr_html_(self) -> str:
        return bench_html(self)


@dataclass(frozen=True)
class DemoReport:
    """The whole path on the embedded model: each plan that was run, and whether all gave the one-tier run's tokens.

    ``timed`` is a larger model, whose time can be predicted: the embedded one's tasks take microseconds.
    """

    runs: Mapping[str, BenchReport]
    model_bytes: int
    tokens_equal: bool
    timed: BenchReport


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that ``flexplan doctor`` looked at; ``costs`` is what lacking it costs."""

    part: str
    state: Literal["ok", "missing", "broken"]
    found: str
    costs: str = ""


Say = Callable[[str], None]


class Runtime(Protocol):
    """Executes plans on this machine."""

    def run(self, request: RunRequest, listener: JobListener) -> JobReport:
        """Every prompt's completion to the listener, the moment it has ended."""

    def bench(self, request: RunRequest, hardware: Hardware | None, listener: Listener) -> BenchReport:
        """All blocks, against what the simulator says of them; ``hardware`` None is what the plan was made for."""

    def profile(self, device: str | None, scratch: Path, say: Say) -> Hardware:
        """This machine, measured."""

    def demo(self, say: Say, listener: Listener) -> DemoReport:
        """Plan, run and compare the embedded model."""

    def convert(self, source: Path) -> Path:
        """A GGUF file as a model directory of the cache, made where it is not there."""

    def examine(self) -> tuple[Finding, ...]:
        """What it finds here, for ``flexplan doctor``."""


def find_runtime(name: str = "torch") -> Runtime:
    """The runtime of this name; a UsageError says how to install what it lacks."""
    try:
        found: Runtime = make(RUNTIMES, name)
    except PluginError as error:
        lacking = error.__cause__
        if not isinstance(lacking, ModuleNotFoundError) or (lacking.name or "").startswith("flexplan"):
            raise
        message = f"the {name} runtime needs {lacking.name}, which is not installed"
        extra = "ray" if name == "ray" else "runtime"
        raise UsageError(
            "FP131", message, fix=f"pip install '.[{extra}]' in the source directory of flexplan"
        ) from error
    return found
