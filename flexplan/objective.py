"""Objective: what a plan is to be best at."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from flexplan.errors import UsageError
from flexplan.limits import Wish, shown


class Objective(BaseModel):
    """Tokens a second, unless a bound says otherwise.

    ``max_latency_s`` bounds the seconds of a whole block, from its first task to its last token.
    ``min_tokens_per_s`` turns the question round: the smallest memory that is as fast as that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_latency_s: Wish | None = None
    min_tokens_per_s: Wish | None = None

    @classmethod
    def of(
        cls, text: str | None = None, *, max_latency: float | None = None, min_throughput: float | None = None
    ) -> Objective:
        """An objective from ``throughput``, ``latency:SECONDS`` or ``memory:TOKENS_PER_S``, or from its two bounds.

        >>> Objective.of("latency:60")
        Objective(max_latency_s=60.0, min_tokens_per_s=None)
        """
        latency, throughput = _parsed(text)
        for name, one, other in (
            ("--max-latency", latency, max_latency),
            ("--min-throughput", throughput, min_throughput),
        ):
            if one is not None and other is not None and one != other:
                message = f"--objective {text} and {name} {other:g} say two things"
                raise UsageError("FP114", message, fix=f"leave {name} out")
        return cls._checked(
            max_latency_s=max_latency if latency is None else latency,
            min_tokens_per_s=min_throughput if throughput is None else throughput,
        )

    @classmethod
    def _checked(cls, **given: Any) -> Objective:
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors()[0]
            flag = {"max_latency_s": "--max-latency", "min_tokens_per_s": "--min-throughput"}[str(first["loc"][0])]
            message = f"{flag} {shown(first['input'])} refused, {first['msg']}"
            raise UsageError("FP114", message, fix=f"give {flag} a number above 0") from None

    @property
    def bounded(self) -> bool:
        """Is more asked for than tokens a second?"""
        return self.max_latency_s is not None or self.min_tokens_per_s is not None

    @property
    def for_speed(self) -> Objective:
        """The same without a wanted throughput: as fast as can be within the bound of latency."""
        return self.model_copy(update={"min_tokens_per_s": None})

    def __str__(self) -> str:
        latency = "" if self.max_latency_s is None else f", a block within {self.max_latency_s:g} s"
        if self.min_tokens_per_s is None:
            return f"the most tokens per second{latency}"
        return f"the least memory for {self.min_tokens_per_s:g} tokens per second{latency}"


def _parsed(text: str | None) -> tuple[float | None, float | None]:
    """(max_latency_s, min_tokens_per_s) of the text form."""
    name, _, value = (text or "throughput").partition(":")
    if name == "throughput" and not value:
        return None, None
    try:
        return {"latency": (float(value), None), "memory": (None, float(value))}[name]
    except (KeyError, ValueError):
        message = f"--objective {shown(text)}; allowed is throughput, latency:SECONDS or memory:TOKENS_PER_S"
        raise UsageError("FP114", message, fix="give one of these, as in --objective latency:60") from None
