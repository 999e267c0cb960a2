"""Running: what the command line asks of a runtime, and what it hands back.

A runtime is a plug-in (group ``flexplan.runtimes``): this file is all that the two know of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from flexplan.errors import PluginError, UsageError
from flexplan.graph import Timeline
from flexplan.hardware import Hardware
from flexplan.plan import Plan
from flexplan.plugins import RUNTIMES, make
from flexplan.policy import Policy
from flexplan.problem import Prompt

Shares = Mapping[str, tuple[float, float, float]]  # "w", "cache", "act" -> percent on (gpu, cpu, disk)


class Listener(Protocol):
    """Is told how far a job is."""

    def stage(self, what: str) -> None:
        """A new stage begins: ``"loading weights"``."""

    def tokens(self, done: int, total: int) -> None:
        """So many tokens of all that may come."""


@dataclass(frozen=True)
class RunRequest:
    """One job; sizes are bytes, None is no limit."""

    policy: Policy | Plan
    model: str
    prompts: tuple[Prompt, ...] = ()
    budgets: Mapping[str, int | None] = field(default_factory=dict)
    offload_dir: Path = Path("offload")
    device: str | None = None
    dtype: str | None = None
    packed_cache: Path | None = None  # a directory where packed weights are kept
    max_new_tokens: int = 32
    do_sample: bool = False
    temperature: float | None = None  # the model's own with do_sample, else 1
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop_at_end_token: bool = True
    dummy: bool = False
    dummy_prompt_len: int | None = None  # random prompts of this length where none are given


@dataclass(frozen=True)
class Completion:
    """One prompt's answer; ``token_ids`` ends with the stop token where one was met.

    ``finish_reason``: ``"stop"``, ``"length"``, or ``"error"`` where the logits became NaN or infinite.
    """

    id: str | int
    prompt: str | tuple[int, ...]
    text: str | None
    token_ids: tuple[int, ...]
    finish_reason: str
    num_prompt_tokens: int


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
        return sum(len(c.token_ids) for c in self.completions)


@dataclass(frozen=True)
class BenchReport:
    """One block, predicted and measured; ``plan`` is for the very lengths that ran."""

    plan: Plan
    predicted: Timeline
    measured: Timeline
    run: RunReport
    moved: Mapping[str, tuple[int, int]]  # resource -> bytes by the plan, bytes counted where they moved
    device_peak_bytes: int | None = None  # what the device's allocator counted


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

    def run(self, request: RunRequest, listener: Listener) -> RunReport:
        """Every prompt's completion, in the order of the prompts."""

    def bench(self, request: RunRequest, hardware: Hardware | None, listener: Listener) -> BenchReport:
        """One block, against what the simulator says of it; ``hardware`` None is what the plan was made for."""

    def profile(self, device: str | None, scratch: Path, say: Say) -> Hardware:
        """This machine, measured."""

    def demo(self, say: Say, listener: Listener) -> DemoReport:
        """Plan, run and compare the embedded model."""

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
        raise UsageError(
            "FP131", message, fix="pip install '.[runtime]' in the source directory of flexplan"
        ) from error
    return found
