"""TokenRules: what a model's own generation config asks of the tokens that follow, read strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict

from flexplan.errors import ModelFilesError
from flexplan.parameters import GENERATION, REFUSED, asked

Ids = tuple[int, ...]

_ONLY_SAMPLED = ("top_h",)  # asks for nothing while the likeliest token is taken
_DRAWS = frozenset(
    ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "not_drawn")
)
_MOST_ID = (1 << 63) - 1


class TokenRules(BaseModel):
    """Names and meanings are transformers'; the fields behind ``do_sample`` count only where draws are asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0  # OpenAI's two, of a request: transformers has none
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    min_length: int = 0  # tokens, those of the prompt counted
    min_new_tokens: int | None = None  # stands above min_length
    bad_words_ids: tuple[Ids, ...] = ()
    sequence_bias: tuple[tuple[Ids, float], ...] = ()
    suppress_tokens: Ids = ()
    begin_suppress_tokens: Ids = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: Ids = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None  # (new tokens before it begins, factor)
    remove_invalid_values: bool = False

    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    not_drawn: tuple[str, ...] = ()  # given, and refused where draws are asked for

    @property
    def change_logits(self) -> bool:
        """Is there a rule that a greedy run keeps, too?"""
        return not self.model_fields_set <= _DRAWS  # a rule that asks for nothing is not set

    @property
    def draws(self) -> dict[str, Any]:
        """What it says of draws, by name."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set & _DRAWS - {"not_drawn"})}


def read_rules(config: Mapping[str, Any], vocab_size: int, where: str) -> TokenRules:
    """The rules in a generation config; a ModelFilesError names what cannot be honoured, or is no value."""
    _refuse_others(config, where)
    read = _Values(config, vocab_size, where)
    found = {name: take(read, name) for name, take in _TAKE.items() if GENERATION[name].asks(config.get(name))}
    not_drawn = tuple(name for name in _ONLY_SAMPLED if GENERATION[name].asks(config.get(name)))
    rules = TokenRules(**found, not_drawn=not_drawn)
    _refuse_contradiction(rules, where)
    return rules


def read_ids(value: Any, key: str, where: str, vocab_size: int) -> Ids:
    """End, begin or pad ids: one or several, or none; those that the vocabulary does not have never match a token."""
    given = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(i) is int and -_MOST_ID <= i <= _MOST_ID for i in given):
        _refuse(where, key, value, "a token id or a list of them")
    return tuple(i for i in given if 0 <= i < vocab_size)


def _refuse_others(config: Mapping[str, Any], where: str) -> None:
    for name, parameter in asked(config, GENERATION, {REFUSED}).items():
        if name not in _ONLY_SAMPLED:
            raise ModelFilesError(
                "FP560",
                f"{where}: {name} is {config[name]!r:.80}: {parameter.why}",
                fix=f"take {name} out of the file, if other tokens than with it are wanted",
            )


def _refuse_contradiction(rules: TokenRules, where: str) -> None:
    first = () if rules.forced_bos_token_id is None else (rules.forced_bos_token_id,)
    for name, forced in (("forced_bos_token_id", first), ("forced_eos_token_id", rules.forced_eos_token_id)):
        if forced and set(forced) <= set(rules.suppress_tokens):
            message = f"{where}: {name} {list(forced)} are all among suppress_tokens: no token would be left"
            raise ModelFilesError("FP561", message, fix="take them out of one of the two")


class _Values:
    """Values of a generation config, each taken by its type."""

    def __init__(self, config: Mapping[str, Any], vocab_size: int, where: str) -> None:
        self.config, self.vocab_size, self.where = config, vocab_size, where

    def wrong(self, name: str, allowed: str) -> NoReturn:
        _refuse(self.where, name, self.config[name], allowed)

    def flag(self, name: str) -> bool:
        value = self.config[name]
        return value if isinstance(value, bool) else self.wrong(name, "true or false")

    def count(self, name: str) -> int:
        value = self.config[name]
        return value if type(value) is int and 0 <= value <= _MOST_ID else self.wrong(name, "a whole number from 0")

    def number(self, name: str) -> float:
        value = self.config[name]
        if type(value) not in (int, float) or not 0 <= value < 1e300:
            self.wrong(name, "a finite number from 0")
        return float(value)

    def positive(self, name: str) -> float:
        return self.number(name) or self.wrong(name, "a finite number above 0")

    def token(self, name: str) -> int:
        found = self.tokens(name)
        return found[0] if len(found) == 1 else self.wrong(name, f"one token id below {self.vocab_size}")

    def tokens(self, name: str) -> Ids:
        value = self.config[name]
        given = value if isinstance(value, list) else [value]
        if not given or not all(map(self._is_token, given)):
            self.wrong(name, f"token ids below {self.vocab_size}")
        return tuple(given)

    def any_ids(self, name: str) -> Ids:
        """Ids of which those that are no tokens suppress nothing."""
        value = self.config[name]
        if not isinstance(value, list) or not all(type(i) is int for i in value):
            self.wrong(name, "a list of token ids")
        return tuple(sorted({i for i in value if 0 <= i < self.vocab_size}))

    def words(self, name: str) -> tuple[Ids, ...]:
        value = self.config[name]
        if not isinstance(value, list) or not all(map(self._is_word, value)):
            self.wrong(name, f"a list of lists of token ids below {self.vocab_size}")
        return tuple(dict.fromkeys(map(tuple, value)))

    def biases(self, name: str) -> tuple[tuple[Ids, float], ...]:
        value = self.config[name]
        pairs = value if isinstance(value, list) else []
        if not pairs or not all(map(self._is_biased, pairs)):
            self.wrong(name, f"a list of [token ids below {self.vocab_size}, number]")
        return tuple({tuple(word): float(bias) for word, bias in pairs}.items())

    def decay(self, name: str) -> tuple[int, float]:
        value = self.config[name]
        if not (isinstance(value, list) and len(value) == 2 and type(value[0]) is int and _is_number(value[1])):
            self.wrong(name, "[new tokens before it begins, factor]")
        return value[0], float(value[1])

    def _is_token(self, value: Any) -> bool:
        return type(value) is int and 0 <= value < self.vocab_size

    def _is_biased(self, value: Any) -> bool:
        return isinstance(value, list) and len(value) == 2 and self._is_word(value[0]) and _is_number(value[1])

    def _is_word(self, value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(map(self._is_token, value))


_TAKE: Mapping[str, Callable[[_Values, str], Any]] = {
    "repetition_penalty": _Values.positive,
    "no_repeat_ngram_size": _Values.count,
    "min_length": _Values.count,
    "min_new_tokens": _Values.count,
    "bad_words_ids": _Values.words,
    "sequence_bias": _Values.biases,
    "suppress_tokens": _Values.any_ids,
    "begin_suppress_tokens": _Values.any_ids,
    "forced_bos_token_id": _Values.token,
    "forced_eos_token_id": _Values.tokens,
    "exponential_decay_length_penalty": _Values.decay,
    "remove_invalid_values": _Values.flag,
    "do_sample": _Values.flag,
    "temperature": _Values.number,
    "top_k": _Values.count,
    "top_p": _Values.number,
    "min_p": _Values.number,
    "typical_p": _Values.number,
    "epsilon_cutoff": _Values.number,
    "eta_cutoff": _Values.number,
}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def _refuse(where: str, key: str, value: Any, allowed: str) -> NoReturn:
    message = f"{where}: {key} is {value!r:.80}, allowed is {allowed}"
    raise ModelFilesError("FP503", message, fix=f"correct {key} or download the file again")
