"""What a client may ask for, honoured or refused by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from flexplan.files import parse_json
from flexplan.serve.objects import Object, Refused, list_object

ENDPOINTS = ("/v1/completions", "/v1/chat/completions")
_WINDOW = "24h"
_MOST_ERRORS = 100
_MOST_PAIRS, _MOST_KEY, _MOST_VALUE = 16, 64, 512  # of metadata, as OpenAI has it


def refuse_unknown(given: Collection[str], known: Collection[str]) -> None:
    """Raise Refused for what would be ignored."""
    if strange := sorted(set(given) - set(known)):
        message = f"{strange[0]!r:.60} is not honoured here; allowed: {', '.join(known)}"
        raise Refused(400, message, param=strange[0], code="unknown_parameter")


def batch_of(given: Any) -> dict[str, Any]:
    """The body of a request for a batch, found right."""
    if not isinstance(given, dict):
        raise Refused(400, "the body is no JSON object")
    refuse_unknown(given, ("input_file_id", "endpoint", "completion_window", "metadata"))
    for name, allowed in (("endpoint", ENDPOINTS), ("completion_window", (_WINDOW,))):
        if given.get(name) not in allowed:
            message = f"{name} is {given.get(name)!r:.60}; allowed: {', '.join(allowed)}"
            raise Refused(400, message, param=name, code="invalid_value")
    if not isinstance(given.get("input_file_id"), str):
        raise Refused(400, "input_file_id is missing", param="input_file_id", code="missing_required_parameter")
    _refuse_metadata(given.get("metadata"))
    return given


def _refuse_metadata(given: Any) -> None:
    right = given is None or (
        isinstance(given, dict)
        and len(given) <= _MOST_PAIRS
        and all(isinstance(v, str) and len(k) <= _MOST_KEY and len(v) <= _MOST_VALUE for k, v in given.items())
    )
    if not right:
        message = f"metadata: at most {_MOST_PAIRS} texts, of {_MOST_VALUE} characters, by names of {_MOST_KEY}"
        raise Refused(400, message, param="metadata", code="invalid_value")


def page(found: list[Object], query: Mapping[str, str], most: int, usual: int, known: Collection[str] = ()) -> Object:
    """A page of objects, ``after`` one of them."""
    refuse_unknown(query, ("limit", "after", *known))
    try:
        limit = int(query.get("limit", usual))
    except ValueError:
        limit = 0
    if not 1 <= limit <= most:
        raise Refused(400, f"limit is {query['limit']!r:.60}; allowed: 1 to {most}", param="limit")
    if "after" in query:
        names = [one["id"] for one in found]
        if query["after"] not in names:
            raise Refused(400, f"after: no such object: {query['after']!r:.80}", param="after")
        found = found[names.index(query["after"]) + 1 :]
    return list_object(found[:limit], len(found) > limit)


def lines_of(path: Path, endpoint: str) -> tuple[int, list[Object]]:
    """How many requests a file has, and what is wrong with it as a whole; what is wrong with one request alone, its
    job says."""
    total, errors = 0, list[Object]()
    for line, url in _urls(path):
        total += 1
        if url is not None and url != endpoint and len(errors) < _MOST_ERRORS:
            message = f"url {url!r:.60} is not the batch's endpoint {endpoint}"
            errors.append({"code": "mismatched_endpoint", "line": line, "message": message, "param": "url"})
    if not total:
        errors.append({"code": "empty_file", "message": "the input file has no requests"})
    return total, errors


def _urls(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if raw.strip():
                try:
                    found = parse_json(raw.decode())
                except ValueError:
                    found = None
                yield line, found.get("url") if isinstance(found, dict) else None
