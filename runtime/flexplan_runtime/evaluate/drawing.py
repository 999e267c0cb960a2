"""What the harness asks of a generation, honoured or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

from flexplan.errors import UsageError
from flexplan.model import TokenRules
from flexplan_runtime.execute import Sampling

_IDLE: Mapping[str, Any] = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True}


@dataclass(frozen=True)
class Asked:
    """Of a generation: how tokens are chosen, how many at most, and the texts that end an answer."""

    sampling: Sampling
    most: int
    until: tuple[str, ...]

    @classmethod
    def of(cls, given: Mapping[str, Any], rules: TokenRules, most: int, end: str) -> Asked:
        """From a task's ``generation_kwargs``, read as the harness reads them; ``end`` is the end token's text."""
        left = dict(normalize_gen_kwargs(dict(given), most))
        until, most, draws = left.pop("until"), left.pop("max_gen_toks"), left.pop("do_sample")
        drawn = {name: left.pop(name, None) for name in ("temperature", "top_k", "top_p")}
        seed = left.pop("seed", None) or 0
        idle = {name for name, value in left.items() if name in _IDLE and value == _IDLE[name]}
        if strange := sorted(left.keys() - idle):
            message = f"generation_kwargs {strange[0]} {left[strange[0]]!r:.60} cannot be honoured"
            fix = "leave it out; allowed are until, max_gen_toks, do_sample, temperature, top_k, top_p and seed"
            raise UsageError("FP192", message, fix=fix)
        sampling = Sampling.of(rules, True, **drawn, seed=seed) if draws else Sampling()
        return cls(sampling, most, (*dict.fromkeys(until), *([end] if end and end not in until else [])))

    @property
    def key(self) -> str:
        """Equal for what gives the same answers to the same prompts."""
        return json.dumps([repr(self.sampling), self.most, self.until])

    def cut(self, text: str) -> str:
        """An answer up to the first text that ends it."""
        for end in self.until:
            text = text.split(end)[0] if end else text
        return text
