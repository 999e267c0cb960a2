"""Wishes: what a request asks for beside its prompt, by OpenAI's names and some that vLLM and transformers share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flexplan.limits import MOST_NEW_TOKENS, shown

MOST_STOPS = 4
MOST_STOP_IDS = 256
MOST_STOP_CHARACTERS = 256  # of each: answers are looked through for them at every token
MOST_CHOICES = 128
MOST_LOGPROBS = 20
MOST_BIASES = 1024
MOST_BIAS = 100  # up or down
MOST_PENALTY = 2  # up or down
MOST_REPETITION = 100
MOST_ID = 1 << 31

NEW_TOKENS = ("max_tokens", "max_new_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is None, empty or 0 is left to the run; ``logprobs`` is so many likeliest tokens beside the chosen one."""

    max_new_tokens: int | None = None
    temperature: float | None = None  # 0 is greedy
    top_p: float | None = None
    top_k: int | None = None  # 0 keeps all
    min_p: float | None = None
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def draws(self) -> bool | None:
        """Whether its tokens are drawn: by its temperature, else because it limits draws or wants several answers.

        None where that is left to the run.
        """
        if self.temperature is not None:
            return self.temperature > 0
        limits = (self.top_p or 1) < 1 or bool(self.top_k) or bool(self.min_p)
        return True if limits or self.n > 1 else None

    @property
    def digested(self) -> list[Any]:
        """As plain data; nothing where nothing is asked for."""
        return [] if self == NOTHING else [getattr(self, name) for name in self.__slots__]


NOTHING = Wishes()


def read_wishes(given: Mapping[str, Any]) -> Wishes:
    """What of a line's keys are wishes; ValueError says what is wrong with one of them."""
    found: dict[str, Any] = {}
    for name, read in _READERS.items():
        if (value := given.get(name)) is None:
            continue
        try:
            for key, wish in read(value).items():
                found[key] = (*found.get(key, ()), *wish) if key == "stop_ids" else wish
        except ValueError as error:
            raise ValueError(f"{name} {shown(value)} is not {error}") from None
    _refuse_contradictions(given, found)
    return Wishes(**found) if found else NOTHING


def _refuse_contradictions(given: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    tokens = {name: given[name] for name in NEW_TOKENS if given.get(name) is not None}
    if len(set(tokens.values())) > 1:
        raise ValueError(f"it says {' and '.join(tokens)}, of which one is enough")
    if given.get("top_logprobs") is not None and not given.get("logprobs"):
        raise ValueError("top_logprobs would change nothing without logprobs: true")
    if found.get("n", 1) > 1 and found.get("temperature") == 0:
        raise ValueError(f"n {found['n']} at temperature 0 would be one answer {found['n']} times")


# -- one value: what it is, or ValueError with what it should be ----------------------------------------------------
Reader = Callable[[Any], dict[str, Any]]


def _number(name: str, low: float, high: float, *, above: bool = False) -> Reader:
    """A number of these bounds; ``above``: more than the lower one."""

    def read(value: Any) -> dict[str, Any]:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        if above and value == low:
            raise ValueError(f"a number above {low:g}, up to {high:g}")
        return {name: float(value)}

    return read


def _whole(name: str, low: int, high: int, what: str = "a whole number") -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{what} from {low} to {high}")
        return {name: value}

    return read


def _top_k(value: Any) -> dict[str, Any]:
    """-1 is vLLM's word for all."""
    return {"top_k": max(0, _whole("top_k", -1, MOST_ID)(value)["top_k"])}


def _logprobs(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"logprobs": 0} if value else {}
    return _whole("logprobs", 0, MOST_LOGPROBS, "true, false or a number of tokens")(value)


def _stop(value: Any) -> dict[str, Any]:
    """One text or several; token ids among them are ids."""
    given = value if isinstance(value, list) else [value]
    texts = tuple(one for one in given if isinstance(one, str))
    ids = tuple(one for one in given if not isinstance(one, str))
    if len(texts) > MOST_STOPS or any(not 1 <= len(text) <= MOST_STOP_CHARACTERS for text in texts):
        raise ValueError(f"up to {MOST_STOPS} texts of 1 to {MOST_STOP_CHARACTERS} characters, and token ids")
    return {name: found for name, found in (("stop", texts), ("stop_ids", _ids(ids))) if found}


def _stop_ids(value: Any) -> dict[str, Any]:
    found = _ids(value if isinstance(value, list) else [value])
    return {"stop_ids": found} if found else {}


def _ids(given: Any) -> tuple[int, ...]:
    if len(given) > MOST_STOP_IDS or any(type(one) is not int or not 0 <= one < MOST_ID for one in given):
        raise ValueError(f"up to {MOST_STOP_IDS} token ids")
    return tuple(given)


def _bias(value: Any) -> dict[str, Any]:
    """Token ids, as JSON has keys, to what is added to their logits."""
    fits = isinstance(value, dict) and len(value) <= MOST_BIASES
    if fits:
        fits = all(key.isascii() and key.isdigit() and len(key) <= 10 and int(key) < MOST_ID for key in value)
    if not fits or any(
        isinstance(b, bool) or not isinstance(b, int | float) or abs(b) > MOST_BIAS for b in value.values()
    ):
        raise ValueError(f"up to {MOST_BIASES} token ids, each with a number from -{MOST_BIAS} to {MOST_BIAS}")
    biases = tuple(sorted((int(token), float(bias)) for token, bias in value.items()))
    return {"logit_bias": biases} if biases else {}


_READERS: Mapping[str, Reader] = {
    **{name: _whole("max_new_tokens", 1, MOST_NEW_TOKENS, "a number of tokens") for name in NEW_TOKENS},
    "temperature": _number("temperature", 0, 100),
    "top_p": _number("top_p", 0, 1, above=True),
    "top_k": _top_k,
    "min_p": _number("min_p", 0, 1),
    "seed": _whole("seed", -(1 << 63), (1 << 63) - 1),
    "n": _whole("n", 1, MOST_CHOICES),
    "stop": _stop,
    "stop_token_ids": _stop_ids,
    "logprobs": _logprobs,
    "top_logprobs": _whole("logprobs", 0, MOST_LOGPROBS, "a number of tokens"),
    "repetition_penalty": _number("repetition_penalty", 0, MOST_REPETITION, above=True),
    "presence_penalty": _number("presence_penalty", -MOST_PENALTY, MOST_PENALTY),
    "frequency_penalty": _number("frequency_penalty", -MOST_PENALTY, MOST_PENALTY),
    "logit_bias": _bias,
}
