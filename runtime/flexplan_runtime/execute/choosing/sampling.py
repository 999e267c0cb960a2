"""How a row chooses: the likeliest token, or one that is drawn from what temperature and its kin leave."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor

from flexplan.errors import UsageError
from flexplan.model import TokenRules
from flexplan_runtime.execute.choosing.limits import Limits, draw_probs

Step = int | Sequence[int]  # tokens before the one that is chosen, of all rows or of each
_OF_DRAWS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_MOST_TOP_K = 1 << 31
NO_TOKEN = -1  # chosen where the logits are no numbers


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose; ``seed`` and a row's place in the input fix its draws, wherever and with whomever it runs."""

    do_sample: bool = False
    temperature: float | None = None  # None is 1
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None

    @classmethod
    def of(
        cls,
        rules: TokenRules,
        do_sample: bool | None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Sampling:
        """What was asked for, and where draws were, the model's own settings for what was not.

        None is greedy, too, but says what the model asks for.
        """
        if do_sample is None and rules.do_sample:
            settings = ", ".join(f"{key} {value}" for key, value in rules.draws.items())
            warnings.warn(
                f"the model's generation config asks for draws ({settings}); this run is greedy", stacklevel=2
            )
        own = rules if do_sample else TokenRules()
        if own.not_drawn:
            raise UsageError(
                "FP153",
                f"the model's generation config has {', '.join(own.not_drawn)}, which draws do not honour",
                fix="take it out of generation_config.json, or leave do_sample off",
            )
        temperature = own.temperature if temperature is None else temperature
        top_k = (own.top_k or None) if top_k is None else top_k  # 0 is transformers' word for all
        top_p = own.top_p if top_p is None else top_p
        cutoffs = (own.min_p, own.typical_p, own.epsilon_cutoff, own.eta_cutoff)
        return cls(bool(do_sample), temperature, top_k, top_p, seed, *cutoffs)

    def __post_init__(self) -> None:
        if not isinstance(self.do_sample, bool) or not _is_number(self.seed, Integral):
            message = f"do_sample {self.do_sample!r:.60} with seed {self.seed!r:.60}"
            raise UsageError("FP102", message, fix="do_sample is True or False, seed a whole number")
        if not self._is_within("temperature", 0, torch.finfo(torch.float32).max):
            message = f"temperature {self.temperature!r:.60} must be above 0 and finite"
            raise UsageError("FP150", message, fix="for greedy, leave do_sample off")
        if not self._is_within("top_k", 0, _MOST_TOP_K, Integral):
            message = f"top_k {self.top_k!r:.60} must be a whole number of at least 1"
            raise UsageError("FP151", message, fix="leave it out to keep all tokens")
        if not self._is_within("top_p", 0, 1):
            message = f"top_p {self.top_p!r:.60} is outside (0, 1]"
            raise UsageError("FP152", message, fix="leave it out to keep all tokens")
        if not (self._is_within("min_p", 0, 1) or (_is_number(self.min_p, Real) and self.min_p == 0)):
            message = f"min_p {self.min_p!r:.60} is outside [0, 1]"
            raise UsageError("FP103", message, fix="leave it out to keep all tokens")
        for name in ("typical_p", "epsilon_cutoff", "eta_cutoff"):
            if not self._is_within(name, -torch.inf, torch.inf):
                message = f"{name} {getattr(self, name)!r:.60} is no number"
                raise UsageError("FP104", message, fix="leave it out to keep all tokens")
        idle = [name for name in _OF_DRAWS if getattr(self, name) is not None]
        if idle and not self.do_sample:
            asked = ", ".join(f"{name} {getattr(self, name)}" for name in idle)
            message = f"{asked} without do_sample would change nothing"
            raise UsageError("FP107", message, fix="add do_sample=True, or leave it out")

    def _is_within(self, name: str, above: float, most: float, kind: type = Real) -> bool:
        value = getattr(self, name)
        return value is None or (_is_number(value, kind) and above < value <= most)

    def choose(self, logits_BV: Tensor, rows: Sequence[int], step: Step) -> Tensor:
        """The next token of each row, (B,); `NO_TOKEN` where no logit, or one that is no number, stands out."""
        chosen_B, broken_B = likeliest(logits_BV)
        if self.do_sample:
            chosen_B = self._draw(logits_BV, broken_B, rows, step)
        return chosen_B.masked_fill(broken_B, NO_TOKEN)

    def _draw(self, logits_BV: Tensor, broken_B: Tensor, rows: Sequence[int], step: Step) -> Tensor:
        probs_BV = draw_probs(logits_BV.masked_fill(broken_B[:, None], 0.0), Limits.of([self], logits_BV.device)).cpu()
        drawn = [self.drawn(probs_BV[b], row, step_of(step, b)) for b, row in enumerate(rows)]
        return torch.cat(drawn).to(logits_BV.device)

    def drawn(self, probs_V: Tensor, row: int, step: int) -> Tensor:
        """One token, (1,), by a generator of its own for every (seed, row, step), whichever rows run together."""
        mixed = (self.seed * 0x9E3779B97F4A7C15 + row * 0xBF58476D1CE4E5B9 + step * 0x94D049BB133111EB) % 2**63
        return torch.multinomial(probs_V, 1, generator=torch.Generator().manual_seed(mixed))


def _is_number(value: object, kind: type) -> bool:
    """True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def step_of(step: Step, b: int) -> int:
    """Row b's."""
    return step if isinstance(step, int) else step[b]


def likeliest(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token of each row, and whether that is none: NaN or infinite, (B,) each."""
    best_B, chosen_B = logits_BV.max(-1)
    return chosen_B, best_B - best_B != 0  # those less themselves are NaN; `isfinite` is more kernels
