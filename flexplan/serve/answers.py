"""A job's lines as lines of OpenAI's result files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flexplan.files import json_line


def result_lines(path: Path, model: str) -> Iterator[bytes]:
    """The lines of an output or of its failed requests."""
    with path.open("rb") as file:
        for n, raw in enumerate(file):
            found = json.loads(raw)
            yield (raw if "custom_id" in found else (json_line(_result(found, n, model)) + "\n").encode())


def _result(found: dict[str, Any], n: int, model: str) -> dict[str, Any]:
    names = {"id": f"batch_req_{n}", "custom_id": str(found["id"])}
    if why := found.get("error"):
        message = f"{why['message']}; {why['fix']}"
        error = {"code": why["code"], "message": message, "line": found.get("line"), "param": None}
        return {**names, "response": None, "error": error}
    asked, new = found["num_prompt_tokens"], len(found["token_ids"])
    choice = {"index": 0, "text": found["text"] or "", "logprobs": None, "finish_reason": found["finish_reason"]}
    body = {
        "id": f"cmpl-{n}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": {"prompt_tokens": asked, "completion_tokens": new, "total_tokens": asked + new},
    }
    return {**names, "response": {"status_code": 200, "request_id": f"req_{n}", "body": body}, "error": None}
