"""Arguments of a call: what each has to be, and a refusal by name of what it is not, before anything is looked at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

from torch import Tensor

from flexplan.errors import PromptError
from flexplan.problem.prompts.wishes import MOST_ID
from flexplan_runtime.execute import Given, Sampling
from flexplan_runtime.generate.tokenizer import Tokenizer


class Kind(NamedTuple):
    """In words, and whether a value is of it; ``lacks``: None stands for one that is not given."""

    what: str
    fits: Callable[[Any], bool]
    lacks: bool = True


def is_whole(value: object) -> bool:
    """A whole number; True and False are none."""
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))  # nearly all are int


def are_ids(value: Any) -> bool:
    """Some token ids, of whatever vocabulary."""
    return _are_whole(value) and all(0 <= one < MOST_ID for one in value)


def _are_whole(value: Any) -> bool:
    listed = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping | Tensor)
    return listed and all(map(is_whole, value))


def _are_given(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(one, Given) for one in value)


def _traces(value: Any) -> bool:
    return isinstance(value, bool) or _are_whole(value)


_FUNCTION = Kind("a function", callable, lacks=False)
KINDS: Mapping[str, Kind] = {
    "attention_mask": Kind("a tensor", lambda value: isinstance(value, Tensor)),
    "block_ended": _FUNCTION,
    "do_sample": Kind("True, False or None", lambda value: isinstance(value, bool)),
    "given": Kind("each prompt as a Given", _are_given),
    "numbers": Kind("whole numbers", _are_whole, lacks=False),
    "pad_token_id": Kind("a token id", lambda value: are_ids([value])),
    "progress": _FUNCTION._replace(lacks=True),
    "sampling": Kind("a Sampling", lambda value: isinstance(value, Sampling)),
    "starts": Kind("whole numbers", _are_whole),
    "stepped": _FUNCTION,
    "stop": Kind("a token id, several, 'model' or None", are_ids),
    "stopping": _FUNCTION,
    "stops": Kind("token ids", are_ids, lacks=False),
    "tokenizer": Kind("a Tokenizer", lambda value: isinstance(value, Tokenizer)),
    "trace": Kind("True, False or numbers of tokens", _traces, lacks=False),
}


def refuse_wrong_kinds(**given: object) -> None:
    """Raise PromptError for the first of the arguments that is none of its `KINDS`."""
    for name, value in given.items():
        kind = KINDS[name]
        if not (kind.lacks and value is None) and not kind.fits(value):
            message = f"{name} is {type(value).__name__}, {value!r:.60}, allowed: {kind.what}"
            raise PromptError("FP338", message, fix=f"give {kind.what}, or leave it out")


def refuse_no_list(prompts: object, called: str = "requests") -> None:
    """Raise PromptError for what is no list of prompts, whatever these are."""
    listed = isinstance(prompts, Sequence) and not isinstance(prompts, str | bytes)
    if not listed and not getattr(prompts, "ndim", 0):  # rows of a tensor or an array are prompts
        message = f"{called} are {type(prompts).__name__}, {prompts!r:.60}"
        raise PromptError("FP300", message, fix="give a list of prompts in token ids, or of Requests")
