"""Prompts in, token ids out: the shapes that ``transformers`` users know."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from flexplan.errors import NoNumbers, PromptError
from flexplan.model import ModelConstants, ModelShape
from flexplan_runtime.execute import Given, Sampling
from flexplan_runtime.generate.arguments import refuse_no_list, refuse_wrong_kinds
from flexplan_runtime.generate.requests import Request

Stop = int | Sequence[int] | Literal["model"] | None


def rows_of(
    input_ids: Tensor | Sequence[Sequence[int]], attention_mask: Tensor | None, pad_id: int | None = None
) -> tuple[list[list[int]], list[Given]]:
    """The prompts without padding, and as they were given.

    Padding is what the mask says; in a tensor without one, every ``pad_id``.  Lists of ids have none.
    """
    refuse_no_list(input_ids, "input_ids")
    refuse_wrong_kinds(attention_mask=attention_mask)
    if not isinstance(input_ids, Tensor):
        if attention_mask is not None:
            message = "attention_mask beside lists of ids, which have no padding, would change nothing"
            raise PromptError("FP340", message, fix="leave it out, or give input_ids as a tensor")
        rows = [getattr(row, "tolist", lambda row=row: row)() for row in input_ids]
        for n, row in enumerate(rows):
            refuse_no_ids(row, f"prompt {n}")
        return rows, [Given(row) for row in rows]
    if input_ids.ndim != 2:
        message = f"input_ids is {tuple(input_ids.shape)}"
        raise PromptError("FP341", message, fix="give a row of token ids for each prompt, (rows, tokens)")
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids) if pad_id is None else input_ids != pad_id
    if attention_mask.shape != input_ids.shape:
        raise PromptError(
            "FP301",
            f"attention_mask is {tuple(attention_mask.shape)}, input_ids {tuple(input_ids.shape)}",
            fix="give one mask value a token",
        )
    masks = attention_mask.bool()
    prompts = [row[mask].tolist() for row, mask in zip(input_ids, masks, strict=True)]
    _warn_of_right_padding(masks)
    leads = masks.int().argmax(-1).tolist() if masks.numel() else []
    return prompts, [Given(row, lead) for row, lead in zip(input_ids.tolist(), leads, strict=True)]


def _warn_of_right_padding(masks: Tensor) -> None:
    rows = (~masks[:, -1:]).any(-1).nonzero().flatten().tolist()
    if rows:
        message = (
            f"rows {_few(rows)} end with padding; they are completed after their last token, as if padded on the left"
        )
        warnings.warn(message, stacklevel=4)


def refuse_bad_prompts(
    prompts: Sequence[Sequence[int] | Request],
    max_new_tokens: int,
    shape: ModelShape,
    names: Sequence[str] | None = None,
) -> None:
    """Raise PromptError for a prompt that is empty, too long for the context, or not of this vocabulary.

    ``names`` is what the prompts are called; their places, if none are given.
    """
    _refuse_no_tokens(max_new_tokens)
    for n, request in enumerate(map(Request.of, prompts)):
        name = names[n] if names else f"prompt {n}"
        error = wrong_with(request, name, request.most(max_new_tokens), shape)
        if error:
            raise error


def _refuse_no_tokens(max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise PromptError("FP302", f"max_new_tokens {max_new_tokens} must be at least 1", fix="raise it")


def refuse_bad_requests(
    requests: Sequence[Sequence[int] | Request],
    max_new_tokens: int,
    shape: ModelShape,
    usual: Sampling,
    *,
    can_watch: bool = True,
    called: str = "request",
) -> None:
    """The same of requests, each with what it asks for by itself, else chosen as ``usual``.

    ``can_watch``: answers may end at texts.
    """
    _refuse_no_tokens(max_new_tokens)
    for n, request in enumerate(map(Request.of, requests)):
        error = wrong_with(request, f"{called} {n}", request.most(max_new_tokens), shape, usual)
        if error:
            raise error
        if request.stop_texts and not can_watch:
            message = (
                f"{called} {n} ends at texts, {request.stop_texts!r:.60}, and there is no tokenizer to find them with"
            )
            raise PromptError("FP321", message, fix="give stream a tokenizer, or stop_ids to the request")


def wrong_with(
    request: Request, name: str, new_tokens: int, shape: ModelShape, usual: Sampling | None = None
) -> PromptError | None:
    """Why a request cannot be run, if so: its prompt is empty, too long for the context or not of this vocabulary."""
    row = request.token_ids
    if strange := _no_ids(row):
        return _is_none(name, strange)
    if wrong := request.refusal(name, shape, usual):
        return wrong
    if not row:
        return PromptError("FP303", f"{name} has no tokens", fix="leave it out, or begin it with a token")
    if len(row) + new_tokens - 1 > shape.max_positions:  # the last one is never read
        message = (
            f"{name} has {len(row)} tokens + {new_tokens} new = {len(row) + new_tokens}, "
            f"{shape.name} reads {shape.max_positions}, and not the last one"
        )
        return PromptError("FP304", message, fix="shorten it, or lower max_new_tokens")
    if not 0 <= min(row) <= max(row) < shape.vocab_size:
        message = f"{name} has token ids {min(row)} to {max(row)}, the vocabulary has {shape.vocab_size}"
        return PromptError("FP305", message, fix="use this model's tokenizer")
    return None


def refuse_no_ids(row: object, name: str) -> None:
    """Raise PromptError for a prompt that is no list of whole numbers."""
    if strange := _no_ids(row):
        raise _is_none(name, strange)


def _is_none(name: str, strange: str) -> PromptError:
    return PromptError("FP333", f"{name} is {strange}", fix="give token ids, those of the model's tokenizer")


def _no_ids(row: object) -> str:
    """What a prompt is that is no list of whole numbers."""
    if isinstance(row, str | bytes) or not isinstance(row, Sequence):
        return f"{type(row).__name__}, {row!r:.60}"
    kinds = {kind.__name__ for kind in set(map(type, row)) if kind is bool or not issubclass(kind, Integral)}
    return f"made of {' and '.join(sorted(kinds))}, {row!r:.60}" if kinds else ""


def refuse_broken(broken: Mapping[int, int], tokens: Sequence[Sequence[int]], dtype: torch.dtype) -> None:
    """Raise NoNumbers where there are rows that no token could be chosen for."""
    if not broken:
        return
    (row, *others), name = sorted(broken), str(dtype).removeprefix("torch.")
    also = f", and so are logits of {len(others)} other prompts: {_few(others)}" if others else ""
    raise NoNumbers(
        "FP1101",
        f"the logits for new token {broken[row]} of prompt {row} are NaN or infinite in {name}{also}",
        fix="take a dtype with a wider range (bfloat16, float32), or look for damaged weights",
        broken=broken,
        tokens=tokens,
    )


def _few(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")


def stop_ids_of(stop: Stop, math: ModelConstants) -> tuple[int, ...]:
    """The ids that end a row: none, the checkpoint's own (``"model"``), or those given (0 too)."""
    if stop is None:
        return ()
    if isinstance(stop, str):
        if stop == "model":
            return tuple(math.eos_token_ids)
        raise PromptError("FP306", f"stop {stop!r} is text", fix="give token ids, 'model' or None")
    ids: Any = [stop] if isinstance(stop, Integral) else stop
    refuse_wrong_kinds(stop=ids)
    return tuple(ids)


def padded(prompts: Sequence[Sequence[int]], new: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """(rows, longest prompt + longest continuation): prompts end, continuations begin, at the same column."""
    prompt_len, new_len = max(map(len, prompts), default=0), max(map(len, new), default=0)
    out = torch.full((len(prompts), prompt_len + new_len), pad_id, dtype=torch.long)
    for n, (prompt, tokens) in enumerate(zip(prompts, new, strict=True)):
        out[n, prompt_len - len(prompt) : prompt_len] = torch.tensor(prompt)
        out[n, prompt_len : prompt_len + len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return out
