"""Text to token ids and back, by the tokenizer that lies beside the weights; no code of the model's is run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from flexplan.errors import FlexplanError, ModelFilesError, PromptError
from flexplan.problem.prompts import Chat, Prompt
from flexplan.problem.prompts.chat_template import Renderer
from flexplan.problem.prompts.tokenizer_file import FILE, LOAD_PATIENCE_S, bounded, chunks, growth_of, lines_of, swollen
from flexplan_runtime.generate.pieces import piece_of

_CONTEXT = 64  # tokens of a prompt that a text is told after: what is before them changes nothing behind them
_FILES = (FILE, "tokenizer.model", "vocab.json", "tokenizer_config.json")


class Tokenizer:
    """The tokenizer of a model directory; loaded when it is first needed."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.broken = False  # it does not load or hangs, and answers are token ids alone
        self._loaded: Any = None
        self._unloadable: ModelFilesError | None = None
        self._complained = False
        self._growth = 1  # characters that one of a text may become
        self._pieces: dict[int, tuple[str, bytes | None]] = {}
        self._renderer = Renderer(directory)

    @cached_property
    def exists(self) -> bool:
        """Is there one?  Asked for every request."""
        return self.directory is not None and any((self.directory / name).is_file() for name in _FILES)

    @property
    def loaded(self) -> Any:
        """transformers' own object, for who speaks to it directly; raises ModelFilesError where it does not load."""
        return self._load()

    @property
    def tells(self) -> bool:
        """Will there be text of answers?  Known once prompts were read."""
        return self.exists and not self.broken

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of every prompt; raises PromptError, or ModelFilesError, for one that has none."""
        found = []
        for ids in self.tried(prompts):
            if isinstance(ids, FlexplanError):
                raise ids
            found.append(ids)
        return found

    def tried(self, prompts: Sequence[Prompt]) -> list[list[int] | FlexplanError]:
        """Token ids of every prompt, with the special tokens that the model's tokenizer puts before or after.

        Messages become text by the chat template first, which puts its own special tokens.  A prompt that cannot be
        read has its error instead: of one that is token ids a tokenizer that does not load is a warning, and there will
        be no text.  Raises PromptError where a tokenizer or a template does not end.
        """
        texts = [prompt for prompt in prompts if not isinstance(prompt.content, tuple)]
        found = iter(self._all_ids(texts))
        if not texts and self.exists and not self.broken:
            self._look()
        return [list(p.content) if isinstance(p.content, tuple) else next(found) for p in prompts]

    def close(self) -> None:
        """End what renders messages; it begins anew where there are more."""
        self._renderer.close()

    def piece(self, token: int) -> tuple[str, bytes | None]:
        """A token's text, and its bytes: of one that is a part of a character, the text is a replacement character."""
        if not self.exists or self.broken:
            return "", None
        if token not in self._pieces:
            self._pieces[token] = piece_of(self._load(), token)
        return self._pieces[token]

    def decode(self, tokens: Sequence[int], after: Sequence[int] = ()) -> str | None:
        """The text of new tokens ``after`` those of the prompt; None where there is no tokenizer, or it fails.

        It is what both give together, less what the prompt gives: some tokenizers drop a space at the beginning.
        A failure is a warning: the tokens are there, and may be the work of hours.
        """
        if not self.exists or self.broken:
            return None
        near = after[-_CONTEXT:]
        try:
            together, before = bounded(lambda: [self._text(ids) for ids in ([*near, *tokens], near)])
        except (TimeoutError, ValueError) as error:
            self.broken = isinstance(error, TimeoutError)  # it would hang again, at each answer
            which = "all answers from here on" if self.broken else "such answers"
            if self.broken or not self._complained:
                message = f"{self.directory}: the tokenizer fails on tokens: {error}; the text of {which} is null"
                warnings.warn(message, stacklevel=2)
            self._complained = True
            return None
        return together[_in_common(together, before) :]

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._load().decode(list(tokens), skip_special_tokens=True)
        return text

    def _all_ids(self, prompts: Sequence[Prompt]) -> list[list[int] | FlexplanError]:
        found: list[list[int] | FlexplanError] = []
        for few in chunks(prompts):
            if self.directory is None:
                found += map(_no_directory, few)
                continue
            texts = self._renderer.texts(few)
            whole = [(prompt, text) for prompt, text in zip(few, texts, strict=True) if isinstance(text, str)]
            ids = iter(self._tried_ids(whole))
            found += [next(ids) if isinstance(text, str) else text for text in texts]
        return found

    def _tried_ids(self, few: Sequence[tuple[Prompt, str]]) -> list[list[int] | FlexplanError]:
        try:
            loaded = self._load()
        except ModelFilesError as error:
            self.broken = True  # which the error of a line says
            return [error] * len(few)
        return self._ids(few, loaded)

    def _ids(self, few: Sequence[tuple[Prompt, str]], loaded: Any) -> list[list[int] | FlexplanError]:
        """Of each; the one that the tokenizer fails on has its error, and those behind it are read all the same."""
        found: list[list[int] | FlexplanError] = []

        def read() -> None:
            for prompt, text in few[len(found) :]:
                if why := swollen([text], self._growth):
                    raise ValueError(why)
                special = not isinstance(prompt.content, Chat)
                ids = loaded(text, add_special_tokens=special, verbose=False)[
                    "input_ids"
                ]  # its length is looked at here
                found.append(ids)

        while len(found) < len(few):
            try:
                bounded(read)
            except ValueError as error:
                found.append(self._failing([few[len(found)][0]], error))
            except TimeoutError as error:  # those before the one it is at may have taken the time
                raise self._failing([prompt for prompt, _ in few[: len(found) + 1]], error) from error
        return found

    def _failing(self, at: Sequence[Prompt], error: Exception) -> PromptError:
        message = f"{lines_of(at)}: the tokenizer of {self.directory} fails: {error}"
        return PromptError("FP308", message, fix="look for the prompt it fails on, or give token ids")

    def _look(self) -> None:
        """Find out before anything runs whether there will be text."""
        try:
            self._load()
        except ModelFilesError as error:
            self.broken = True
            warnings.warn(f"{error.message}: answers are token ids, their text is null", stacklevel=2)

    def _load(self) -> Any:
        if self._unloadable is not None:  # found out once: it may take minutes
            raise self._unloadable
        if self._loaded is None:
            try:
                self._loaded = self._open()
            except ModelFilesError as error:
                self._unloadable = error
                raise
        return self._loaded

    def _open(self) -> Any:
        if not self.exists:
            message = f"{self.directory}: has no tokenizer ({', '.join(_FILES[:3])})"
            raise ModelFilesError("FP540", message, fix="put the tokenizer's files there, or give prompts as token ids")
        from transformers import AutoTokenizer  # heavy, and not needed for token ids

        directory = self.directory
        assert directory is not None
        try:
            if (directory / FILE).is_file():
                self._growth = growth_of(directory / FILE)
            return bounded(
                lambda: AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False),
                LOAD_PATIENCE_S,
            )
        except (OSError, ValueError) as error:  # whatever is wrong with the files
            message = f"{self.directory}: the tokenizer does not load: {error}"
            raise ModelFilesError("FP541", message, fix="fetch the tokenizer's files again") from error


def _no_directory(prompt: Prompt) -> PromptError:
    message = f"line {prompt.line}: the prompt is text, and dummy weights by name have no tokenizer"
    return PromptError("FP307", message, fix='give token ids, as in {"prompt_ids": [1, 2]}')


def _in_common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    if one.startswith(other):
        return len(other)
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
