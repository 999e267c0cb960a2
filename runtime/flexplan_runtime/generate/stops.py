"""Texts at which an answer ends, found while its tokens come, across any borders between them."""

from __future__ import annotations

from collections.abc import Sequence

from flexplan_runtime.execute import Ends
from flexplan_runtime.generate.tokenizer import Tokenizer

_BYTES = 4  # tokens that one character may be made of, where they are bytes
_CONTEXT = 8  # tokens before those that are looked at: some tokenizers drop a space in front of the first


def watching(tokenizer: Tokenizer, prompt: Sequence[int], stops: tuple[str, ...]) -> Ends:
    """Says of an answer to ``prompt`` whether one of the stops is within its last tokens."""
    width = _BYTES * max(map(len, stops)) + 1

    def ends(tokens: Sequence[int]) -> bool:
        recent, before = tokens[-width:], [*prompt[-_CONTEXT:], *tokens[:-width]][-_CONTEXT:]
        text = tokenizer.decode(recent, after=before) or ""
        return any(stop in text for stop in stops)

    return ends


def cut(text: str, stops: tuple[str, ...]) -> str:
    """A text up to the first of the stops.

    >>> cut("one. two", (".", "two"))
    'one'
    """
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(found)] if found else text
