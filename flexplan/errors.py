"""The errors people see; each names what was asked, what there is, and which knob to turn.

::

    FlexplanError                 exit  code range
    ├── InternalError               1   FP0xx   our bug
    ├── UsageError                  2   FP1xx   command line, problem or output path
    │   ├── PolicyError             2   FP2xx   a policy or plan file
    │   └── PromptError             2   FP3xx   prompts
    ├── InfeasiblePlan              3   FP4xx   nothing fits the budgets
    ├── ModelFilesError             4   FP5xx   a model directory
    ├── StorageError                6   FP6xx   disk full, short read, bad checksum
    ├── MemoryExhausted             7   FP7xx   an allocation failed
    ├── GraphError                  1   FP8xx   a schedule that would compute wrong tokens
    ├── PluginError                 3   FP9xx   a planner, schedule or runtime misbehaves
    ├── DeadlineExceeded            9   FP10xx  no progress
    ├── NoNumbers                   5   FP11xx  logits from which no token can be chosen
    ├── OutputHeld                  8   FP12xx  another run writes the same output
    ├── Stopped                    75   FP13xx  stopped on request, to be gone on with
    └── RequestsFailed              5   FP14xx  some requests could not be completed, the others are
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

# control characters but for tab and line feed, what turns the direction of writing around, halves of a pair
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""A text that does nothing to a terminal but stand there: a name may hold escape codes.

    >>> visible("model \x1b[31m")
    'model \\x1b[31m'
    """
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def did_you_mean(
    name: str,
    known: Collection[str],
    otherwise: str,
    *,
    most: int = 1,
    cutoff: float = 0.6,
    called: Mapping[str, str] | None = None,
) -> str:
    """The known names nearest to a wrong one, as a question; ``otherwise`` where none is near.

    Where several names are known for one thing, ``called`` gives the one to be said.

    >>> did_you_mean("zigzgag", ["rowwise", "zigzag"], "see flexplan planners")
    'did you mean zigzag?'
    >>> names = {"opt-30b": "facebook/opt-30b", "opt-30b-hf": "facebook/opt-30b"}
    >>> did_you_mean("optt-30b", names, "none is", most=2, called=names)
    'did you mean facebook/opt-30b?'
    """
    from difflib import get_close_matches  # only for those who mistype

    close = get_close_matches(name, known, 3 * most, cutoff)  # some of which may be the same
    near = list(dict.fromkeys((called or {}).get(c, c) for c in close))[:most]
    return f"did you mean {' or '.join(near)}?" if near else otherwise


class FlexplanError(Exception):
    """Anything flexplan refuses or gives up on; prints as ``error[FPnnn]: ...`` and ``fix: ...``."""

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, message: str, *, fix: str = "", state: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix
        self.state = state

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, self.__dict__)  # another process may have to tell it

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        if self.fix:
            lines.append(f"fix: {self.fix}")
        if self.state:
            lines.append(f"state: {self.state}")
        return visible("\n".join(lines))


def _again(kind: type[FlexplanError], args: tuple[Any, ...], found: dict[str, Any]) -> FlexplanError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(found)
    return error


class InternalError(FlexplanError):
    """A bug of ours."""


class UsageError(FlexplanError):
    """A bad command line, problem or output path; nothing ran."""

    exit_code = 2


class PolicyError(UsageError):
    """A bad policy or plan file; nothing ran."""


class PromptError(UsageError):
    """Bad prompts; nothing ran."""


class InfeasiblePlan(FlexplanError):
    """No placement fits the budgets.

    ``binding`` names the tiers that are too small, or ``latency`` or ``throughput``.  ``smallest_budget_bytes``
    gives, for each tier, the smallest budget that works when only that tier grows, or None where no budget of it
    helps; ``smallest_together_bytes`` budgets that work together where none does alone.  ``block_that_works`` is
    (gpu_batch_size, num_gpu_batches): with any of these budgets, or, for percents by hand, with those there are.
    ``shortage`` is what is short, tier by tier, in words.
    """

    exit_code = 3

    def __init__(
        self,
        code: str,
        message: str,
        *,
        fix: str = "",
        binding: tuple[str, ...] = (),
        smallest_budget_bytes: Mapping[str, int | None] | None = None,
        smallest_together_bytes: Mapping[str, int] | None = None,
        block_that_works: tuple[int, int] | None = None,
        shortage: str = "",
    ) -> None:
        super().__init__(code, message, fix=fix)
        self.binding = binding
        self.smallest_budget_bytes = dict(smallest_budget_bytes or {})
        self.smallest_together_bytes = dict(smallest_together_bytes or {})
        self.block_that_works = block_that_works
        self.shortage = shortage or message


class ModelFilesError(FlexplanError):
    """A model directory that cannot be used."""

    exit_code = 4


class StorageError(FlexplanError):
    """The disk tier failed: full, short, unreadable or altered."""

    exit_code = 6


class MemoryExhausted(FlexplanError):
    """An allocation failed that the plan counted on."""

    exit_code = 7


class GraphError(FlexplanError):
    """A task graph that could read before a fill or overwrite what is in use."""


class PluginError(FlexplanError):
    """A planner, schedule or runtime that does not keep its contract."""

    exit_code = 3


class NoNumbers(FlexplanError):
    """Logits of some prompts became NaN or infinite; those of all others did not.

    ``broken`` gives the first new token, counted from 0, that each of these rows has no logits for; ``tokens`` are
    the new tokens of all rows, up to there.
    """

    exit_code = 5

    def __init__(
        self,
        code: str,
        message: str,
        *,
        fix: str = "",
        broken: Mapping[int, int] | None = None,
        tokens: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__(code, message, fix=fix)
        self.broken = dict(broken or {})
        self.tokens = tokens


class DeadlineExceeded(FlexplanError):
    """A task made no progress before its deadline."""

    exit_code = 9


class OutputHeld(FlexplanError):
    """Another run writes the same output; nothing ran."""

    exit_code = 8


class Stopped(FlexplanError):
    """A signal asked the job to stop; what is finished is safe, and `--resume` goes on."""

    exit_code = 75


class RequestsFailed(FlexplanError):
    """Some requests could not be completed; all others are."""

    exit_code = 5
