"""OpenAI's objects: the lines of a batch's output and error files, with a completion or a chat completion in each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from flexplan.errors import FlexplanError
from flexplan.files import json_line
from flexplan.job import Choice, Completion, TokenLogprob
from flexplan.problem.prompts import BadLine


def answer_line(completion: Completion, place: int, model: str) -> str:
    """A line of the output file; ``place`` makes the names that OpenAI's service would give."""
    body = _chat(completion, place, model) if completion.api == "chat" else _text(completion, place, model)
    response = {"status_code": 200, "request_id": f"req_{place}", "body": body}
    return _line(completion.id, place, response, None)


def error_line(name: str | int | None, place: int, line: int | None, error: FlexplanError) -> str:
    """A line of the error file."""
    why = {"code": error.code, "message": f"{error.message}; {error.fix}", "line": line, "param": None}
    return _line(name, place, None, why)


def bad_batch_line(bad: BadLine) -> str:
    """The same of a line that is no request."""
    return error_line(bad.id, bad.place, bad.line, bad.error)


def _line(name: str | int | None, place: int, response: Any, error: Any) -> str:
    found = {
        "id": f"batch_req_{place}",
        "custom_id": None if name is None else str(name),
        "response": response,
        "error": error,
    }
    return json_line(found) + "\n"


def _text(completion: Completion, place: int, model: str) -> dict[str, Any]:
    choices = [
        {"index": n, "text": one.text or "", "logprobs": _text_logprobs(one), "finish_reason": one.finish_reason}
        for n, one in enumerate(completion.choices)
    ]
    return {"id": f"cmpl-{place}", "object": "text_completion", **_common(completion, model), "choices": choices}


def _chat(completion: Completion, place: int, model: str) -> dict[str, Any]:
    choices = [
        {
            "index": n,
            "message": {"role": "assistant", "content": one.text or "", "refusal": None},
            "logprobs": None if one.logprobs is None else {"content": _positions(one.logprobs), "refusal": None},
            "finish_reason": one.finish_reason,
        }
        for n, one in enumerate(completion.choices)
    ]
    return {"id": f"chatcmpl-{place}", "object": "chat.completion", **_common(completion, model), "choices": choices}


def _common(completion: Completion, model: str) -> dict[str, Any]:
    asked, new = completion.num_prompt_tokens, completion.num_tokens
    usage = {"prompt_tokens": asked, "completion_tokens": new, "total_tokens": asked + new}
    return {"created": int(time.time()), "model": model, "usage": usage}


def _text_logprobs(choice: Choice) -> dict[str, Any] | None:
    """In the form of text completions: a list a field; offsets are characters of the text."""
    if choice.logprobs is None:
        return None
    offsets, at = list[int](), 0
    for one in choice.logprobs:
        offsets.append(at)
        at += len(one.text)
    return {
        "tokens": [one.text for one in choice.logprobs],
        "token_logprobs": [one.logprob for one in choice.logprobs],
        "top_logprobs": [_likeliest(one) for one in choice.logprobs] if any(c.top for c in choice.logprobs) else None,
        "text_offset": offsets,
    }


def _likeliest(position: TokenLogprob) -> Mapping[str, float]:
    """By text; of two tokens that read alike the likelier one."""
    found: dict[str, float] = {}
    for one in position.top:
        found.setdefault(one.text, one.logprob)
    return found


def _positions(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [{**_token(one), "top_logprobs": [_token(other) for other in one.top]} for one in logprobs]


def _token(one: TokenLogprob) -> dict[str, Any]:
    return {"token": one.text, "bytes": None if one.raw is None else list(one.raw), "logprob": one.logprob}
