"""Text to token ids and back, by the tokenizer that lies beside the weights; no code of the model's is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexplan.errors import ModelFilesError, PromptError
from flexplan.problem.prompts import Prompt

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


class Tokenizer:
    """The tokenizer of a model directory; loaded when it is first needed."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._loaded: Any = None

    @property
    def exists(self) -> bool:
        """Is there one?"""
        return self.directory is not None and any((self.directory / name).is_file() for name in _FILES)

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of every prompt, with the special tokens that the model's tokenizer puts before or after."""
        return [self._ids(p) if isinstance(p.content, str) else list(p.content) for p in prompts]

    def decode(self, tokens: Sequence[int]) -> str | None:
        """The text of new tokens; None where there is no tokenizer."""
        if not self.exists:
            return None
        text: str = self._load().decode(tokens, skip_special_tokens=True)
        return text

    def _ids(self, prompt: Prompt) -> list[int]:
        if self.directory is None:
            message = f"line {prompt.line}: the prompt is text, and dummy weights by name have no tokenizer"
            raise PromptError("FP307", message, fix='give token ids, as in {"prompt_ids": [1, 2]}')
        ids: list[int] = self._load()(prompt.content)["input_ids"]
        return ids

    def _load(self) -> Any:
        if self._loaded is None:
            self._loaded = self._open()
        return self._loaded

    def _open(self) -> Any:
        if not self.exists:
            message = f"{self.directory}: has no tokenizer ({', '.join(_FILES[:3])})"
            raise ModelFilesError("FP540", message, fix="put the tokenizer's files there, or give prompts as token ids")
        from transformers import AutoTokenizer  # heavy, and not needed for token ids

        try:
            return AutoTokenizer.from_pretrained(self.directory, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # whatever is wrong with the files
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            message = f"{self.directory}: the tokenizer does not load: {reason}"
            raise ModelFilesError("FP541", message, fix="fetch the tokenizer's files again") from error
