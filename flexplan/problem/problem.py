"""Problem: what is asked, a model on a machine for a workload, and what the answer is to be best at."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flexplan.errors import UsageError
from flexplan.hardware import DEFAULT_PRESET, Hardware, hardware_from
from flexplan.limits import MOST_NEW_TOKENS, MOST_PROMPTS, Tokens, first_refused
from flexplan.model import ModelShape
from flexplan.model.catalog import shape_to_run
from flexplan.problem.expected import MOST_EXPECTED, Expectation, Expected, expectation_of
from flexplan.problem.objective import Objective
from flexplan.units import parse_size

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)
_GOLDEN = (5**0.5 - 1) / 2  # whose multiples spread evenly over one
NewTokens = Annotated[int, Field(ge=1, le=MOST_NEW_TOKENS)]


class Workload(BaseModel):
    """Prompt and output lengths in tokens; ``num_prompts`` None is one full block.

    ``prompt_lens`` gives every prompt its own length; ``prompt_len`` is then the longest.  ``gen_lens`` gives every
    prompt its own most new tokens, and ``gen_len`` is the most of them.  ``expected_lens`` are lengths of answers as
    they are expected, where few take all that they may: each stands for an equal part of all answers, or of those to
    prompts of up to as many tokens as ``expected_prompts`` has beside it (`expectation_of` makes them of a mean, a
    histogram or a file).
    """

    model_config = _STRICT

    prompt_len: Tokens = 512
    gen_len: NewTokens = 32
    num_prompts: Annotated[int, Field(ge=1, le=MOST_PROMPTS)] | None = None
    prompt_lens: Annotated[tuple[Tokens, ...], Field(strict=False)] = ()
    gen_lens: Annotated[tuple[NewTokens, ...], Field(strict=False)] = ()
    expected_lens: Annotated[tuple[NewTokens, ...], Field(strict=False, max_length=MOST_EXPECTED)] = ()
    expected_prompts: Annotated[tuple[Tokens, ...], Field(strict=False, max_length=MOST_EXPECTED)] = ()

    @model_validator(mode="after")
    def _agree(self) -> Workload:
        if self.prompt_lens and self.gen_lens and len(self.prompt_lens) != len(self.gen_lens):
            message = f"{len(self.prompt_lens)} prompt_lens and {len(self.gen_lens)} gen_lens"
            raise UsageError("FP188", message, fix="give each prompt one of both")
        if self.expected_prompts and len(self.expected_prompts) != len(self.expected_lens):
            message = f"{len(self.expected_prompts)} expected_prompts and {len(self.expected_lens)} expected_lens"
            raise UsageError("FP188", message, fix="give each expected length one, ascending, or none")
        for lens, longest in ((self.prompt_lens, "prompt_len"), (self.gen_lens, "gen_len")):
            if lens:
                object.__setattr__(self, longest, max(lens))
                object.__setattr__(self, "num_prompts", len(lens))
        return self

    def prompt_lens_of(self, rows: range) -> tuple[int, ...]:
        """The lengths of some of the prompts, by their places."""
        return self.prompt_lens[rows.start : rows.stop] or (self.prompt_len,) * len(rows)

    def gen_lens_of(self, rows: range) -> tuple[int, ...]:
        """The most new tokens of some of the prompts, by their places."""
        return self.gen_lens[rows.start : rows.stop] or (self.gen_len,) * len(rows)

    def likely_lens_of(self, rows: range) -> tuple[int, ...]:
        """Answers as long as they may turn out: the expected lengths in turn, spread evenly; none longer than allowed.

        >>> Workload(gen_len=9, expected_lens=(2, 4, 40)).likely_lens_of(range(6))
        (2, 4, 2, 9, 4, 2)
        """
        most, lens, ends = self.gen_lens_of(rows), self.expected_lens, self.expected_prompts
        if not lens:
            return most
        found, places = list[int](), {-1: (0, len(lens))}
        for n, prompt in enumerate(self.prompt_lens_of(rows) if ends else (0,) * len(rows)):
            key = ends[min(bisect_left(ends, prompt), len(ends) - 1)] if ends else -1
            if key not in places:
                places[key] = bisect_left(ends, key), bisect_right(ends, key)
            lo, hi = places[key]
            found.append(min(most[n], lens[lo + int((rows.start + n) * _GOLDEN % 1 * (hi - lo))]))
        return tuple(found)

    @property
    def expected(self) -> Expectation:
        """What is expected of the answers' lengths."""
        return Expectation(self.expected_lens, self.expected_prompts)

    def new_tokens(self, rows: int) -> int:
        """New tokens of all prompts, of which there are ``rows``, as they are expected."""
        if self.expected_lens and not (self.gen_lens or self.expected_prompts):
            return round(rows * sum(min(self.gen_len, n) for n in self.expected_lens) / len(self.expected_lens))
        if self.expected_lens:
            return sum(self.likely_lens_of(range(rows)))
        return sum(self.gen_lens) if self.gen_lens else rows * self.gen_len

    @property
    def longest(self) -> tuple[int, int]:
        """The prompt and the answer that are longest together, in tokens."""
        if not self.prompt_lens or not self.gen_lens:
            return self.prompt_len, self.gen_len
        return max(zip(self.prompt_lens, self.gen_lens, strict=True), key=sum)

    def __repr__(self) -> str:
        lens = f", {len(self.prompt_lens)} prompt_lens" if self.prompt_lens else ""
        lens += f", {len(self.gen_lens)} gen_lens" if self.gen_lens else ""
        lens += f", {len(self.expected_lens)} expected_lens" if self.expected_lens else ""
        return f"Workload(prompt_len={self.prompt_len}, gen_len={self.gen_len}, num_prompts={self.num_prompts}{lens})"

    @classmethod
    def of(cls, **given: Any) -> Workload:
        """A workload, or a UsageError that names the field."""
        try:
            return cls(**given)
        except ValidationError as error:
            first = first_refused(error)
            raise UsageError("FP110", f"workload {first.where}: {first.says}", fix=f"correct {first.where}") from None


class Problem(BaseModel):
    """A model, a machine, a workload and an objective; the machine's capacities are the budgets."""

    model_config = _STRICT

    model: ModelShape
    hardware: Hardware
    workload: Workload = Workload()
    objective: Objective = Objective()

    @model_validator(mode="after")
    def _fits_the_context(self) -> Problem:
        prompt, output = self.workload.longest
        need, have = prompt + output, self.model.max_positions
        if need - 1 > have:  # the last token is never read
            raise UsageError(
                "FP111",
                f"prompt {prompt} + output {output} = {need} tokens, {self.model.name} reads {have}",
                fix="lower --prompt-len or --gen-len",
            )
        return self

    @classmethod
    def of(
        cls,
        model: str | Path | ModelShape = "facebook/opt-30b",
        *,
        gpu_mem: str | int | None = None,
        cpu_mem: str | int | None = None,
        disk_mem: str | int | None = None,
        hardware: str | Path | Hardware = DEFAULT_PRESET,
        prompt_len: int = 512,
        gen_len: int = 32,
        num_prompts: int | None = None,
        prompt_lens: tuple[int, ...] = (),
        gen_lens: tuple[int, ...] = (),
        expected: Expected = (),
        objective: str | Objective = "throughput",
    ) -> Problem:
        """A problem from names, paths or objects; sizes are text such as ``16G`` or bytes.

        ``expected`` is how long answers are likely to be, of which ``gen_len`` or ``gen_lens`` is the most: their mean,
        lengths that were seen, alone or as pairs (prompt, answer), a histogram {length: how many}, or a file
        (`expectation_of`).  ``objective`` is
        ``throughput``, ``latency:SECONDS`` or ``memory:TOKENS_PER_S``.
        """
        likely = expectation_of(expected, max(gen_lens, default=gen_len))
        budgets = {"gpu": gpu_mem, "cpu": cpu_mem, "disk": disk_mem}
        return cls(
            model=model if isinstance(model, ModelShape) else shape_to_run(str(model)),
            hardware=hardware_from(hardware).with_budget(
                **{tier: parse_size(size) for tier, size in budgets.items() if size is not None}
            ),
            workload=Workload.of(
                prompt_len=prompt_len,
                gen_len=gen_len,
                num_prompts=num_prompts,
                prompt_lens=prompt_lens,
                gen_lens=gen_lens,
                expected_lens=likely.lens,
                expected_prompts=likely.prompts,
            ),
            objective=objective if isinstance(objective, Objective) else Objective.of(objective),
        )

    def budgets(self) -> dict[str, int]:
        """Bytes that tensors may take on each tier."""
        h = self.hardware
        return {"gpu": self.room("gpu", h.gpu_bytes), "cpu": h.cpu_bytes, "disk": h.disk_bytes}

    def room(self, tier: str, capacity: int) -> int:
        """Of a tier's capacity, the bytes that tensors may take."""
        # a fiftieth at most: a plan for a toy budget is not all overhead
        return capacity - min(self.hardware.gpu_overhead_bytes, capacity // 50) if tier == "gpu" else capacity

    def with_budgets(self, **budgets: int) -> Problem:
        """The same problem with other capacities, in bytes by tier."""
        return self.model_copy(update={"hardware": self.hardware.with_budget(**budgets)})

    def with_layers(self, num_layers: int) -> Problem:
        """The same problem of a shallower model; layers are alike, so a few show what many do."""
        return self.model_copy(update={"model": self.model.model_copy(update={"num_layers": num_layers})})

    def with_most_tokens(self, gen_len: int) -> Problem:
        """The same problem with an output of at most so many tokens."""
        lens = tuple(min(most, gen_len) for most in self.workload.gen_lens)
        short = self.workload.model_copy(update={"gen_len": min(self.workload.gen_len, gen_len), "gen_lens": lens})
        return self.model_copy(update={"workload": short})

    def budget_for(self, tier: str, need: int) -> int:
        """The smallest capacity of a tier that leaves ``need`` bytes for tensors."""
        if tier != "gpu":
            return need
        return need + min(self.hardware.gpu_overhead_bytes, max(0, need - 1) // 49)  # the inverse of ``room``
