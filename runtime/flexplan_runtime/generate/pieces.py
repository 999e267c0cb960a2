"""Pieces: a token alone as text and as bytes, of which a character may need several."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BROKEN = "\ufffd"


def piece_of(tokenizer: Any, token: int) -> tuple[str, bytes | None]:
    """Its text as it stands in a text, special tokens too, and its bytes; None where those cannot be known."""
    written = tokenizer.convert_ids_to_tokens(token)
    if written is None:  # an id that the tokenizer has no token for
        return "", None
    text = _within(tokenizer, token)
    if _BROKEN not in text:
        return text, text.encode()
    if found := _BYTE.fullmatch(written):
        return text, bytes([int(found[1], 16)])
    if all(letter in _letters() for letter in written):
        return text, bytes(_letters()[letter] for letter in written)
    return text, None


def _within(tokenizer: Any, token: int) -> str:
    """As it stands behind another: some tokenizers drop a space in front of a text's first token."""
    alone: str = tokenizer.decode([token], skip_special_tokens=False)
    twice: str = tokenizer.decode([token, token], skip_special_tokens=False)
    return twice[len(alone) :] if twice.startswith(alone) and len(twice) > 2 * len(alone) else alone


@lru_cache(maxsize=1)
def _letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes as: those that can be seen as they are, others from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in set(seen)]
    return {chr(byte): byte for byte in seen} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
