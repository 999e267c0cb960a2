"""The problem file: what the flags of ``flexplan solve`` say, in TOML.

Keys are the flags' names with underscores; ``[policy]`` holds policy fields for the manual planner::

    model = "facebook/opt-30b"
    gpu_mem = "16G"
    cpu_mem = "200G"
    prompt_len = 512
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flexplan.errors import UsageError, did_you_mean
from flexplan.job import DEFAULT_NEW_TOKENS, refuse_idle_format
from flexplan.limits import MOST_FILE_BYTES, MOST_NEW_TOKENS, first_refused, read_limited
from flexplan.policy import CompressionConfig, Policy, allowed_fields, field_names
from flexplan.problem import Expectation, Objective, Problem, expectation_of
from flexplan.problem.expected import Expected
from flexplan.problem.prompts import new_tokens_of, read_lengths
from flexplan.problem.prompts.lengths import lengths, prompts_to_plan_for

Size = str | int

# as --percent takes them
PERCENTS = tuple(f"{what}_{tier}_percent" for what in ("w", "cache", "act") for tier in ("gpu", "cpu"))
_MOST_PARTS = 2000  # dots or brackets of a problem file


class ProblemFile(BaseModel):
    """What ``solve`` is asked; None is the stated default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str | None = None
    hardware: str | None = None
    gpu_mem: Size | None = None
    cpu_mem: Size | None = None
    disk_mem: Size | None = None
    prompt_len: int | None = None
    gen_len: int | None = None
    gen_lens: str | None = None
    max_new_tokens: int | None = None
    num_prompts: int | None = None
    prompts: str | None = None
    lengths: str | None = None
    format: str | None = None
    tokenizer: str | None = None
    objective: str | None = None
    max_latency: float | None = None
    min_throughput: float | None = None
    allow: list[str] | None = None
    planner: str | None = None
    effort: str | None = None
    planner_timeout: Annotated[float, Field(gt=0, strict=False)] | None = None
    schedule: str | None = None
    policy: Annotated[dict[str, Any], Field(default_factory=dict)]

    @classmethod
    def load(cls, path: str | Path) -> ProblemFile:
        """The file, with paths in it relative to its own directory; a UsageError names a wrong key."""
        try:
            text = read_limited(path, MOST_FILE_BYTES)
        except (OSError, ValueError) as error:
            raise UsageError("FP160", f"problem file {path} cannot be read: {error}", fix="give a TOML file") from None
        given = _parsed(text, path)
        try:
            file = cls.model_validate(given)
        except ValidationError as error:
            raise _refusal(path, error) from None
        beside = {
            key: _beside(Path(path).parent, getattr(file, key))
            for key in ("model", "hardware", "prompts", "lengths", "gen_lens", "tokenizer")
        }
        return file.model_copy(update=beside)

    @classmethod
    def asked(cls, path: str | None, flags: Mapping[str, Any]) -> ProblemFile:
        """What the command line says by its flags, over what a file says; None leaves the file's value."""
        file = cls.load(path) if path else cls(policy={})
        said = {name: value for name, value in flags.items() if value is not None}
        said["format"] = said.pop("form", None)
        keys = {name: value for name, value in said.items() if name in cls.model_fields and value is not None}
        fields = {name: value for name, value in said.items() if name in field_names()}
        fields |= dict(zip(PERCENTS, said.get("percent", ()), strict=False))
        if "allow" in keys:
            keys["allow"] = keys["allow"].split(",")
        return file.model_copy(update={**keys, "policy": {**file.policy, **fields}})

    def problem(self) -> Problem:
        """The problem, the defaults filled in."""
        keys = ("model", "hardware", "gpu_mem", "cpu_mem", "disk_mem", "prompt_len", "num_prompts")
        given = {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
        goal = Objective.of(self.objective, max_latency=self.max_latency, min_throughput=self.min_throughput)
        return Problem.of(**given | self._of_prompts(), objective=goal)

    def _of_prompts(self) -> dict[str, Any]:
        """The lengths of the prompts file, if there is one, and the new tokens that its lines ask for."""
        refuse_idle_format(self.format, self.prompts)
        if self.lengths is not None:
            return self._of_lengths()
        seen = self._seen()
        usual = max(seen.lens, default=DEFAULT_NEW_TOKENS if self.gen_len is None else self.gen_len)
        usual = usual if self.max_new_tokens is None else self.max_new_tokens
        if self.prompts is None:
            return {"gen_len": usual, "expected": self._expected(seen, usual)}
        doubled = [key for key in ("prompt_len", "num_prompts") if getattr(self, key) is not None]
        if doubled:
            flags = " and ".join(f"--{key.replace('_', '-')}" for key in doubled)
            message = f"--prompts {self.prompts} says how many and how long, {flags} too"
            raise UsageError("FP116", message, fix=f"leave {flags} out")
        prompts = prompts_to_plan_for(self.prompts, self.format or "auto")
        found: dict[str, Any] = {"prompt_lens": lengths(prompts, self.tokenizer or self.model)}
        most = new_tokens_of(prompts, usual, "--max-new-tokens" if self.max_new_tokens else "")
        found |= {"gen_lens": most} if len(set(most)) > 1 else {"gen_len": most[0]}
        return found | {"expected": self._expected(seen, max(most))}

    def _seen(self) -> Expectation:
        """What lengths that were seen before let expect."""
        if self.gen_lens is None:
            return Expectation()
        if self.gen_len is not None:
            message = f"--gen-lens {self.gen_lens} says how long answers are, --gen-len {self.gen_len} too"
            raise UsageError("FP127", message, fix="leave one of them out")
        return expectation_of(self.gen_lens, MOST_NEW_TOKENS)

    def _expected(self, seen: Expectation, most: int) -> Expected:
        """How long answers are likely to be, of which the longest may have ``most`` tokens."""
        if self.gen_len is not None and self.gen_len > most:
            message = f"--gen-len {self.gen_len}: no answer may have more than {most} new tokens"
            raise UsageError("FP128", message, fix="lower it, or raise --max-new-tokens or the numbers in the lines")
        return seen if self.gen_len is None or self.gen_len == most else self.gen_len

    def _of_lengths(self) -> dict[str, Any]:
        """The lengths of a table's first requests."""
        keys = ("prompt_len", "gen_len", "gen_lens", "max_new_tokens", "prompts")
        doubled = [key for key in keys if getattr(self, key) is not None]
        if doubled:
            flags = " and ".join(f"--{key.replace('_', '-')}" for key in doubled)
            message = f"--lengths {self.lengths} says how long prompts and answers are, {flags} too"
            raise UsageError("FP197", message, fix=f"leave {flags} out")
        found = read_lengths(str(self.lengths), self.num_prompts)
        pairs = list(zip(found.prompt_lens, found.ends, strict=False))
        lens = {"prompt_lens": found.prompt_lens, "gen_lens": found.gen_lens}
        return {"num_prompts": None, "expected": pairs, **lens}

    def chosen_planner(self) -> tuple[str, dict[str, Any]]:
        """The planner's name and its options; policy fields alone mean the manual one."""
        name = self.planner or ("manual" if self.policy else "search")
        options: dict[str, Any] = {} if self.schedule is None else {"schedule": self.schedule}
        if self.effort is not None:
            options["effort"] = self.effort
        if self.allow:
            options["lossy"] = allowed_fields(self.allow)
        if self.policy and name != "manual":
            fields = ", ".join(self.policy)
            raise UsageError(
                "FP161", f"planner {name} chooses {fields} itself", fix="use --planner manual, or leave them out"
            )
        if name == "manual":
            options["policy"] = Policy(**{name: _field(value) for name, value in self.policy.items()})
        return name, options


def _parsed(text: str, path: str | Path) -> dict[str, Any]:
    """The tables of a TOML text; UsageError where it is none, or nested or long beyond sense."""
    parts = max(map(text.count, (".", "[", "{")), default=0)
    try:
        if parts > _MOST_PARTS:  # tables within tables are read in time that is square in their depth
            raise ValueError(f"it has {parts} tables or dotted keys, allowed {_MOST_PARTS}")
        return tomllib.loads(text)
    except RecursionError:
        why = "it is nested too deeply"
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        why = str(error)
    raise UsageError("FP160", f"problem file {path} is not TOML: {why:.300}", fix="correct the line")


def _field(value: Any) -> Any:
    """A policy field; a table of its own is a compression."""
    return CompressionConfig(**value) if isinstance(value, dict) else value


def _beside(directory: Path, value: str | None) -> str | None:
    """A path as the file means it; a name that is no path there stays a name."""
    try:
        return str(directory / value) if value and (directory / value).exists() else value
    except (OSError, ValueError):  # no file could be called so
        return value


def _refusal(path: str | Path, error: ValidationError) -> UsageError:
    first = first_refused(error)
    where = ".".join(part for part in first.where.split(".") if part not in ("str", "int"))  # of a union's members
    if first.unknown:
        known = list(ProblemFile.model_fields)
        fix = did_you_mean(where, known, f"the keys are {', '.join(known)}")
        return UsageError("FP162", f"problem file {path}: {where}: no such key", fix=fix)
    return UsageError("FP169", f"problem file {path}: {where}: {first.says}", fix=f"correct {where}")
