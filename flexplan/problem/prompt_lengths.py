"""How long prompts are, in tokens: token ids are counted, text goes through the model's ``tokenizer.json``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexplan.errors import PromptError, UsageError
from flexplan.problem.prompts import Prompt, read_prompts

_FILE = "tokenizer.json"
_MOST = 20_000  # lengths that a plan carries; of more prompts every n-th is planned for


def prompt_lens(source: str | Path, tokenizer: str | Path | None = None) -> tuple[int, ...]:
    """The length of every prompt of a file, in order; ``tokenizer`` is a directory that holds ``tokenizer.json``.

    Of more than 20,000 prompts every n-th is taken, with a warning: their lengths are much the same.
    """
    prompts = read_prompts(source)
    if not prompts:
        raise PromptError("FP314", f"{source} has no prompts to plan for", fix="give --prompt-len, or another file")
    every = -(-len(prompts) // _MOST)
    if every > 1:
        message = f"{source} has {len(prompts):,} prompts; one of every {every} is planned for"
        warnings.warn(message, stacklevel=2)
    return lengths(prompts[::every], tokenizer)


def lengths(prompts: Sequence[Prompt], tokenizer: str | Path | None = None) -> tuple[int, ...]:
    """Tokens of each, the special ones that the tokenizer adds among them."""
    texts = [prompt.content for prompt in prompts if isinstance(prompt.content, str)]
    counted = iter(_counted(texts, tokenizer) if texts else ())
    found = tuple(next(counted) if isinstance(p.content, str) else len(p.content) for p in prompts)
    for prompt, length in zip(prompts, found, strict=True):
        if not length:
            raise PromptError("FP312", f"line {prompt.line}: it has no tokens", fix=f"leave line {prompt.line} out")
    return found


def _counted(texts: Sequence[str], tokenizer: str | Path | None) -> list[int]:
    return [len(encoding.ids) for encoding in _open(tokenizer).encode_batch(list(texts))]


def _open(tokenizer: str | Path | None) -> Any:
    """The tokenizer; a UsageError says what to give where there is none."""
    given = Path(tokenizer).expanduser() if tokenizer is not None else None
    path = given / _FILE if given is not None and given.is_dir() else given
    if path is None or not path.is_file() or path.name == "config.json":
        what = f"{tokenizer} has no {_FILE}" if given is not None else f"there is no {_FILE}"
        message = f"the prompts are text, and {what} to count their tokens with"
        raise UsageError("FP117", message, fix='give --tokenizer DIR, or token ids as in {"prompt_ids": [1, 2]}')
    try:
        from tokenizers import Tokenizer  # comes with transformers; token ids need none
    except ModuleNotFoundError:
        message = "the prompts are text, and counting their tokens needs the package tokenizers"
        raise UsageError("FP117", message, fix="pip install tokenizers, or give token ids") from None
    try:
        found = Tokenizer.from_file(str(path))
    except Exception as error:  # whatever is wrong with the file
        raise UsageError("FP117", f"{path} does not load: {error}", fix="fetch the tokenizer's files again") from error
    found.no_truncation()
    found.no_padding()
    return found
