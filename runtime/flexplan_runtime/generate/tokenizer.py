"""Text to token ids and back, by the tokenizer that lies beside the weights; no code of the model's is run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexplan.errors import ModelFilesError, PromptError
from flexplan.problem import CHUNK, FILE, MOST_SWOLLEN, Prompt, bounded, growth_of

_FILES = (FILE, "tokenizer.model", "vocab.json", "tokenizer_config.json")


class Tokenizer:
    """The tokenizer of a model directory; loaded when it is first needed."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.broken = False  # it does not load, and answers are token ids alone
        self._loaded: Any = None
        self._growth = 1  # characters that one of a text may become

    @property
    def exists(self) -> bool:
        """Is there one?"""
        return self.directory is not None and any((self.directory / name).is_file() for name in _FILES)

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of every prompt, with the special tokens that the model's tokenizer puts before or after.

        Raises before anything runs where text cannot be read; where all prompts are token ids, a tokenizer that does
        not load is a warning, and there will be no text.
        """
        texts = [prompt for prompt in prompts if isinstance(prompt.content, str)]
        found = iter(self._all_ids(texts))
        if not texts and self.exists:
            self._look()
        return [next(found) if isinstance(p.content, str) else list(p.content) for p in prompts]

    def decode(self, tokens: Sequence[int], after: Sequence[int] = ()) -> str | None:
        """The text of new tokens ``after`` those of the prompt; None where there is no tokenizer.

        It is what both give together, less what the prompt gives: some tokenizers drop a space at the beginning.
        """
        if not self.exists or self.broken:
            return None
        try:
            together, before = bounded(lambda: [self._text(ids) for ids in ([*after, *tokens], after)])
        except ValueError as error:
            message = f"{self.directory}: the tokenizer fails on {len(after) + len(tokens)} tokens: {error}"
            warnings.warn(f"{message}: their text is null", stacklevel=2)
            return None
        return together[_in_common(together, before) :]

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._load().decode(list(tokens), skip_special_tokens=True)
        return text

    def _all_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        found: list[list[int]] = []
        for first in range(0, len(prompts), CHUNK):
            few = prompts[first : first + CHUNK]
            self._refuse_swelling(few)
            try:
                found += bounded(lambda few=few: [self._ids(prompt) for prompt in few])  # type: ignore[misc]
            except ValueError as error:
                if isinstance(error.__cause__, PromptError | ModelFilesError):
                    raise error.__cause__ from None
                lines = f"lines {few[0].line} to {few[-1].line}" if len(few) > 1 else f"line {few[0].line}"
                message = f"{lines}: the tokenizer of {self.directory} fails: {error}"
                raise PromptError("FP308", message, fix="look for the prompt it fails on, or give token ids") from error
        return found

    def _refuse_swelling(self, prompts: Sequence[Prompt]) -> None:
        """Raise PromptError for a text that the tokenizer's rules would make too long to hold."""
        self._load() if self.directory is not None else None
        for prompt in prompts:
            if len(prompt.content) * self._growth > MOST_SWOLLEN:
                longer = f"{len(prompt.content)} characters may become {self._growth} times as many"
                message = f"line {prompt.line}: {longer}"
                raise PromptError("FP308", message, fix="shorten it, or look at the tokenizer's normalizer")

    def _ids(self, prompt: Prompt) -> list[int]:
        if self.directory is None:
            message = f"line {prompt.line}: the prompt is text, and dummy weights by name have no tokenizer"
            raise PromptError("FP307", message, fix='give token ids, as in {"prompt_ids": [1, 2]}')
        ids: list[int] = self._load()(prompt.content)["input_ids"]
        return ids

    def _look(self) -> None:
        """Find out before anything runs whether there will be text."""
        try:
            self._load()
        except ModelFilesError as error:
            self.broken = True
            warnings.warn(f"{error.message}: answers are token ids, their text is null", stacklevel=2)

    def _load(self) -> Any:
        if self._loaded is None:
            self._loaded = self._open()
        return self._loaded

    def _open(self) -> Any:
        if not self.exists:
            message = f"{self.directory}: has no tokenizer ({', '.join(_FILES[:3])})"
            raise ModelFilesError("FP540", message, fix="put the tokenizer's files there, or give prompts as token ids")
        try:
            assert self.directory is not None
            if (self.directory / FILE).is_file():
                self._growth = growth_of(self.directory / FILE)
            return bounded(self._from_files)
        except (OSError, ValueError) as error:  # whatever is wrong with the files
            message = f"{self.directory}: the tokenizer does not load: {error}"
            raise ModelFilesError("FP541", message, fix="fetch the tokenizer's files again") from error

    def _from_files(self) -> Any:
        from transformers import AutoTokenizer  # heavy, and not needed for token ids

        return AutoTokenizer.from_pretrained(self.directory, local_files_only=True, trust_remote_code=False)


def _in_common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    if one.startswith(other):
        return len(other)
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
