"""A model of the harness's arguments: planned for its budgets, placed, with its tokenizer and its log of answers."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from flexplan.errors import UsageError
from flexplan.hardware import DEFAULT_PRESET
from flexplan.journal import Answers
from flexplan.model import ModelShape
from flexplan.plan import Plan, load_policy, solve
from flexplan.policy import Policy, lossy_fields
from flexplan.problem import Problem
from flexplan_runtime.commands.identity import digests_of
from flexplan_runtime.execute import ExecutionEnv
from flexplan_runtime.generate import OffloadedLM, Tokenizer
from flexplan_runtime.weights import dtype_of, open_model, resolve_model


class Opened:
    """The model that the harness asks, until it is closed.

    ``policy`` is a file that ``flexplan solve -o`` wrote; without one a plan is made for ``prompt_len`` and
    ``gen_len`` on ``hardware``.  ``journal`` is a file in which answers are kept.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        policy: str | Path | None = None,
        gpu_mem: str | int | None = None,
        cpu_mem: str | int | None = None,
        disk_mem: str | int | None = None,
        hardware: str | None = None,
        prompt_len: int | None = None,
        gen_len: int | None = None,
        offload_dir: str | Path = "offload",
        device: str | None = None,
        dtype: str | None = None,
        packed_cache: str | Path | None = None,
        journal: str | Path | None = None,
    ) -> None:
        planned_for = {"hardware": hardware, "prompt_len": prompt_len, "gen_len": gen_len}
        _refuse_idle(policy, planned_for)
        self.directory = resolve_model(pretrained)
        model = open_model(str(self.directory), self.directory, 0)
        number = dtype_of(dtype, model.math)
        sizes: dict[str, Any] = {"gpu_mem": gpu_mem, "cpu_mem": cpu_mem, "disk_mem": disk_mem}
        with ExitStack() as stack:
            self.answers = None if journal is None else stack.enter_context(Answers(Path(journal).expanduser()))
            chosen: Policy | Plan
            if policy is None:
                chosen = _plan(model.shape.with_dtype(number.itemsize), sizes, planned_for)
            else:
                chosen = load_policy(Path(policy))
            env = stack.enter_context(ExecutionEnv.create(offload_dir, device=device, **sizes))
            lm = OffloadedLM(model, env, self.directory, chosen, dtype=number, packed_cache=packed_cache)
            self.lm = stack.enter_context(lm)
            self.tokenizer = Tokenizer(self.directory).loaded
            self._stack = stack.pop_all()

    def settings(self) -> dict[str, Any]:
        """What answers depend on; a plan that only places things elsewhere gives the same."""
        lossy = lossy_fields(self.lm.policy)
        return {**digests_of(self.directory), "dtype": str(self.lm.dtype), **lossy}

    def close(self) -> None:
        """Give everything back."""
        self._stack.close()

    def __enter__(self) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refuse_idle(policy: object, planned_for: dict[str, Any]) -> None:
    idle = [name for name, value in planned_for.items() if value is not None]
    if policy is not None and idle:
        message = f"{', '.join(idle)} beside policy={policy} would change nothing"
        raise UsageError("FP191", message, fix="leave one of them out: a plan is made for these, or read from a file")


def _plan(shape: ModelShape, sizes: dict[str, Any], planned_for: dict[str, Any]) -> Plan:
    """Half the context to read, at most 512 tokens, and one to write: as most tasks only ask for scores."""
    hardware, prompt_len, gen_len = planned_for["hardware"], planned_for["prompt_len"], planned_for["gen_len"]
    problem = Problem.of(
        shape,
        hardware=hardware or DEFAULT_PRESET,
        prompt_len=prompt_len or min(512, max(1, shape.max_positions // 2)),
        gen_len=gen_len or 1,
        **sizes,
    )
    return solve(problem)
