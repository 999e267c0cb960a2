"""How long prompts are, in tokens: token ids are counted, text goes through the model's ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flexplan.errors import PromptError, UsageError
from flexplan.model.places import directory_of
from flexplan.problem.prompts.chat_template import Renderer
from flexplan.problem.prompts.reading import read_prompts
from flexplan.problem.prompts.request_line import Chat, Prompt
from flexplan.problem.prompts.tokenizer_file import FILE, LOAD_PATIENCE_S, bounded, chunks, growth_of, lines_of, swollen


def prompt_lens(source: str | Path, tokenizer: str | Path | None = None) -> tuple[int, ...]:
    """The length of every prompt of a file, in order; ``tokenizer`` is a directory that holds ``tokenizer.json``."""
    return lengths(prompts_to_plan_for(source), tokenizer)


def prompts_to_plan_for(source: str | Path, form: str = "auto") -> Sequence[Prompt]:
    """The prompts of a file, of which there must be some."""
    prompts = read_prompts(source, form)
    if not prompts:
        raise PromptError("FP314", f"{source} has no prompts to plan for", fix="give --prompt-len, or another file")
    return prompts


def lengths(prompts: Sequence[Prompt], tokenizer: str | Path | None = None) -> tuple[int, ...]:
    """Tokens of each, the special ones that the tokenizer adds among them."""
    texts = [prompt for prompt in prompts if not isinstance(prompt.content, tuple)]
    counted = iter(_counted(texts, tokenizer) if texts else ())
    found = tuple(len(p.content) if isinstance(p.content, tuple) else next(counted) for p in prompts)
    for prompt, length in zip(prompts, found, strict=True):
        if not length:
            raise PromptError("FP303", f"line {prompt.line} has no tokens", fix=f"leave line {prompt.line} out")
    return found


def _counted(texts: Sequence[Prompt], tokenizer: str | Path | None) -> list[int]:
    (opened, growth), counts = _open(tokenizer), list[int]()
    directory = directory_of(Path(tokenizer).expanduser()) if tokenizer is not None else None
    with Renderer(directory) as renderer:
        for few in chunks(texts):  # only the counts are kept
            counts += _counts(opened, growth, list(zip(few, _read(renderer, few), strict=True)), tokenizer)
    return counts


def _read(renderer: Renderer, few: Sequence[Prompt]) -> Iterator[str]:
    for text in renderer.texts(few):
        if isinstance(text, PromptError):
            raise text
        yield text


def _counts(opened: Any, growth: int, few: Sequence[tuple[Prompt, str]], tokenizer: str | Path | None) -> list[int]:
    try:
        if why := swollen([text for _, text in few], growth):
            raise ValueError(why)
        return bounded(lambda: _encoded(opened, few))
    except TimeoutError as error:
        why = str(error)
    except ValueError as error:
        if len(few) > 1:  # which of them?
            return [count for one in few for count in _counts(opened, growth, [one], tokenizer)]
        why = str(error)
    message = f"{lines_of([prompt for prompt, _ in few])}: the tokenizer of {tokenizer} fails: {why}"
    raise PromptError("FP308", message, fix="look for the prompt it fails on, or give token ids")


def _encoded(opened: Any, few: Sequence[tuple[Prompt, str]]) -> list[int]:
    """A chat template has put the special tokens already."""
    plain = iter(opened.encode_batch([text for prompt, text in few if not isinstance(prompt.content, Chat)]))
    chats = [text for prompt, text in few if isinstance(prompt.content, Chat)]
    chatted = iter(opened.encode_batch(chats, add_special_tokens=False) if chats else ())
    return [len(next(chatted if isinstance(prompt.content, Chat) else plain).ids) for prompt, _ in few]


def _open(tokenizer: str | Path | None) -> tuple[Any, int]:
    """The tokenizer, and how many characters it may make of one; a UsageError says what to give where there is none."""
    given = directory_of(Path(tokenizer).expanduser()) if tokenizer is not None else None
    path = given / FILE if given is not None and given.is_dir() else given
    if path is None or not path.is_file():
        what = f"{tokenizer} has no {FILE}" if given is not None else f"there is no {FILE}"
        message = f"the prompts are text, and {what} to count their tokens with"
        raise UsageError("FP117", message, fix='give --tokenizer DIR, or token ids as in {"prompt_ids": [1, 2]}')
    try:
        from tokenizers import Tokenizer  # comes with transformers; token ids need none
    except ModuleNotFoundError:
        message = "the prompts are text, and counting their tokens needs the package tokenizers"
        raise UsageError("FP117", message, fix="pip install tokenizers, or give token ids") from None
    try:
        growth = growth_of(path)
        found = bounded(lambda: Tokenizer.from_file(str(path)), LOAD_PATIENCE_S)
    except (OSError, ValueError) as error:  # whatever is wrong with the file
        raise UsageError("FP117", f"{path} does not load: {error}", fix="fetch the tokenizer's files again") from error
    found.no_truncation()
    found.no_padding()
    return found, growth
