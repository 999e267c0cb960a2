"""Requests: a prompt and how it is to be completed, and the rows that answer it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from numbers import Real
from typing import Any, overload

from flexplan.errors import PromptError
from flexplan.limits import MOST_NEW_TOKENS
from flexplan.model import Ids, ModelConstants, ModelShape, TokenRules
from flexplan.problem.prompts.wishes import MOST_BIAS, MOST_CHOICES, MOST_LOGPROBS, MOST_PENALTY, MOST_REPETITION
from flexplan.sequences import LazySequence
from flexplan_runtime.execute import Ends, Given, Row, Sampling
from flexplan_runtime.generate.arguments import are_ids, is_whole

_CHOICE = 0x2545F4914F6CDD1D  # between the draws of two answers: odd, as a generator looks at the low bits of a seed


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt in token ids; what is None is as for all others of the call.

    ``seed``: draws then depend on it and the position alone, not on the place in the input.  ``stop`` is a text that
    an answer ends with, or several (the call needs a tokenizer then), ``stop_ids`` are tokens beside those of the
    call.  ``logprobs``: so many of the likeliest tokens are told of at each position beside the one that was chosen.
    ``logit_bias`` is added to the logits of tokens.  ``ends_after`` so many tokens an answer ends as if it had
    stopped: for measuring.
    """

    token_ids: Sequence[int]
    max_new_tokens: int | None = None
    sampling: Sampling | None = None
    seed: int | None = None
    n: int = 1
    stop: str | Sequence[str] = ()
    stop_ids: Ids = ()
    logprobs: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    ends_after: int | None = None

    @classmethod
    def of(cls, given: Sequence[int] | Request) -> Request:
        """A prompt alone is a request, too."""
        return given if isinstance(given, Request) else cls(given)

    def most(self, usual: int) -> int:
        """New tokens that it may have."""
        return usual if self.max_new_tokens is None else self.max_new_tokens

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """The texts that an answer ends with: one text is not a sequence of its letters."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def refusal(self, name: str, shape: ModelShape, usual: Sampling | None = None) -> PromptError | None:
        """What cannot be honoured of it, its prompt apart; ``usual`` is how tokens are chosen where it says nothing."""
        wrong = [*self._wrong_kinds(), *self._wrong_counts(shape.vocab_size)] or [*self._wrong_numbers()]
        if wrong:  # whatever is looked at below may not be what it is to be
            return _refused(name, wrong)
        sampling = self.sampling or usual
        if self.n > 1 and sampling is not None and not sampling.do_sample:
            wrong.append(f"n {self.n}, and without do_sample that would be one answer {self.n} times")
        if not all(self.stop_texts):
            wrong.append("a stop at a text without characters")
        if any(not 0 <= token < shape.vocab_size for token in self.logit_bias):
            wrong.append(f"a bias of a token that the vocabulary of {shape.vocab_size} has not")
        if any(not 0 <= token < shape.vocab_size for token in self.stop_ids):
            wrong.append(f"a stop at a token that the vocabulary of {shape.vocab_size} has not")
        return _refused(name, wrong) if wrong else None

    def _wrong_kinds(self) -> Iterator[str]:
        if not (self.sampling is None or isinstance(self.sampling, Sampling)):
            yield f"sampling {self.sampling!r:.60}, allowed is a Sampling"
        if not (self.seed is None or is_whole(self.seed)):
            yield f"seed {self.seed!r:.60}, allowed is a whole number"
        if not (isinstance(self.stop, Sequence) and all(isinstance(one, str) for one in self.stop)):
            yield f"stop {self.stop!r:.60}, allowed are texts"
        if not are_ids(self.stop_ids):
            yield f"stop_ids {self.stop_ids!r:.60}, allowed are token ids"
        if not isinstance(self.logit_bias, Mapping):
            yield f"logit_bias {self.logit_bias!r:.60}, allowed is a mapping of token ids"

    def _wrong_counts(self, vocab_size: int) -> Iterator[str]:
        most = {"n": MOST_CHOICES, "logprobs": min(MOST_LOGPROBS, vocab_size)}
        most |= dict.fromkeys(("max_new_tokens", "ends_after"), MOST_NEW_TOKENS)
        for name, high in most.items():
            value, low = getattr(self, name), 0 if name == "logprobs" else 1
            if not (value is None and name != "n") and not (is_whole(value) and low <= value <= high):
                yield f"{name} {value!r:.60}, allowed are whole numbers from {low} to {high}"

    def _wrong_numbers(self) -> Iterator[str]:
        if (given := self.repetition_penalty) is not None and not (_is_real(given) and 0 < given <= MOST_REPETITION):
            yield f"repetition_penalty {given!r:.60}, which must be above 0, up to {MOST_REPETITION}"
        for name in ("presence_penalty", "frequency_penalty"):
            if not (_is_real(given := getattr(self, name)) and abs(given) <= MOST_PENALTY):
                yield f"{name} {given!r:.60}, allowed are numbers from -{MOST_PENALTY} to {MOST_PENALTY}"
        for token, bias in self.logit_bias.items():
            if not (is_whole(token) and _is_real(bias) and abs(bias) <= MOST_BIAS):
                yield f"logit_bias {token!r:.20}: {bias!r:.60}, allowed are token ids, -{MOST_BIAS} to {MOST_BIAS} each"
                return


def _is_real(value: object) -> bool:
    return type(value) in (float, int) or (isinstance(value, Real) and not isinstance(value, bool))


def _refused(name: str, wrong: Sequence[str]) -> PromptError:
    return PromptError("FP309", f"{name} asks for {'; '.join(wrong)}", fix="correct it")


Requests = Sequence[Sequence[int] | Request]


def each_with(requests: Requests, max_new_tokens: int | Sequence[int]) -> tuple[Requests, int]:
    """The requests, each with its own most new tokens where there is one number for each, and the usual number."""
    several = isinstance(max_new_tokens, Sequence) and not isinstance(max_new_tokens, str)
    found: list[Any] = [*max_new_tokens] if several else [max_new_tokens]  # type: ignore[misc]
    if not all(is_whole(most) for most in found):
        message = f"max_new_tokens is {max_new_tokens!r:.60}"
        raise PromptError("FP339", message, fix="give a whole number, or one for each prompt")
    given = [int(most) for most in found]
    if not several:
        return requests, given[0]
    if len(given) != len(requests):
        message = f"max_new_tokens has {len(given)} numbers, there are {len(requests)} prompts"
        raise PromptError("FP335", message, fix="give one for each prompt, or one number for all")
    made = [replace(Request.of(one), max_new_tokens=most) for one, most in zip(requests, given, strict=True)]
    return made, max(given, default=1)


def refuse_bad_numbers(numbers: Sequence[int], count: int) -> None:
    """Raise PromptError for places in an input that are not one for each request."""
    if not numbers:
        return
    rising = all(one < other for one, other in pairwise(numbers))  # a set of a million takes much memory
    if len(numbers) != count or not (rising or len(set(numbers)) == count):
        message = f"numbers has {len(numbers)} places, {len(set(numbers))} of them different, for {count} requests"
        raise PromptError("FP329", message, fix="give each request a place of its own, or none")


@dataclass(frozen=True)
class Usual:
    """What holds for all requests of a call, where they do not say otherwise."""

    max_new_tokens: int
    sampling: Sampling
    stops: Ids
    math: ModelConstants
    watch: Callable[[Sequence[int], tuple[str, ...]], Ends] | None = None  # for texts at which an answer ends


class Rows(LazySequence[Row]):
    """A row for each answer that is asked for, made when it is looked at: of a million there are only a block's.

    ``numbers``: the requests' places in a longer input; draws depend on them.
    """

    def __init__(
        self,
        requests: Sequence[Sequence[int] | Request],
        usual: Usual,
        numbers: Sequence[int] = (),
        given: Sequence[Given] | None = None,
    ) -> None:
        self._requests, self._usual, self._numbers, self._given = requests, usual, numbers, given
        choices = [Request.of(one).n for one in requests]
        self._ends = None if all(n == 1 for n in choices) else list(accumulate(choices))
        self._rules = lru_cache(maxsize=64)(_rules)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else len(self._requests)

    def made_at(self, at: int) -> Row:
        return self._row(*self.place(at))

    def part(self, left: Sequence[int]) -> Sequence[Row]:
        """Only these rows."""
        return self if len(left) == len(self) else _Part(self, left)

    def place(self, row: int) -> tuple[int, int]:
        """The request that a row answers, and which of its answers it is."""
        if self._ends is None:
            return row, 0
        place = bisect_right(self._ends, row)
        return place, row - (self._ends[place - 1] if place else 0)

    def number(self, place: int) -> int:
        """A request's place in the caller's input."""
        return self._numbers[place] if self._numbers else place

    @property
    def num_tokens(self) -> int:
        """The most that all rows may have."""
        usual = self._usual.max_new_tokens
        return sum(one.n * one.most(usual) for one in map(Request.of, self._requests))

    def _ends_of(self, request: Request) -> Ends | None:
        """Where an answer ends beside its stop tokens and its most."""
        if (after := request.ends_after) is not None:
            return lambda tokens: len(tokens) >= after
        watch = self._usual.watch
        return watch(request.token_ids, texts) if (texts := request.stop_texts) and watch else None

    def _row(self, place: int, choice: int) -> Row:
        request, usual = Request.of(self._requests[place]), self._usual
        sampling, number = request.sampling or usual.sampling, self.number(place)
        if request.seed is not None:
            sampling, number = replace(sampling, seed=request.seed), 0
        return Row(
            given=self._given[place] if self._given else Given(request.token_ids),
            prompt=request.token_ids,
            most=request.most(usual.max_new_tokens),
            sampling=sampling,
            rules=self._rules(usual.math.rules, _changed(request)),
            stop_ids=frozenset((*usual.stops, *request.stop_ids)),
            draw=number + choice * _CHOICE,
            logprobs=request.logprobs,
            ends=self._ends_of(request),
            rule_ends=usual.stops or usual.math.eos_token_ids,
        )


class _Part(LazySequence[Row]):
    """Some rows of a call, likewise."""

    def __init__(self, rows: Rows, left: Sequence[int]) -> None:
        self._rows, self._left = rows, left

    def __len__(self) -> int:
        return len(self._left)

    def made_at(self, at: int) -> Row:
        return self._rows[self._left[at]]


class Remembered(Sequence[Row]):
    """Rows of which those that were looked at last are kept: of a rolling job, all that sit at a time."""

    def __init__(self, rows: Sequence[Row], most: int) -> None:
        self._rows = rows
        self._row = lru_cache(maxsize=most)(rows.__getitem__)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)  # all of them, one after the other: none is kept

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | Sequence[Row]:
        return self._rows[at] if isinstance(at, slice) else self._row(at)


def _changed(request: Request) -> tuple[tuple[str, Any], ...]:
    """The rules that a request has of its own, by name."""
    own = {
        "repetition_penalty": request.repetition_penalty,
        "presence_penalty": request.presence_penalty or None,
        "frequency_penalty": request.frequency_penalty or None,
        "sequence_bias": tuple(((token,), float(bias)) for token, bias in request.logit_bias.items()) or None,
    }
    return tuple((name, value) for name, value in own.items() if value is not None)


def _rules(rules: TokenRules, own: tuple[tuple[str, Any], ...]) -> TokenRules:
    """Those of the model with a request's own; biases are added to the model's."""
    if not own:
        return rules
    found = dict(own)
    if "sequence_bias" in found:
        both = dict(rules.sequence_bias)
        for word, bias in found["sequence_bias"]:
            both[word] = both.get(word, 0.0) + bias
        found["sequence_bias"] = tuple(both.items())
    return rules.model_copy(update=found)
