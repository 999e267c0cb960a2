"""OpenAI's objects as plain data: files, batches, lists and errors."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

Object = dict[str, Any]

OPEN = frozenset(("validating", "in_progress", "finalizing", "cancelling"))  # of a batch that is still worked on
_MOMENTS = ("in_progress", "expires", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class Refused(Exception):
    """What cannot be done, with its HTTP status; ``param`` is the part of the request that is at fault."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code


def error_object(status: int, message: str, param: str | None = None, code: str | None = None) -> Object:
    """The body of a refusal."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def new_id(prefix: str) -> str:
    """A name that nobody has; later ones sort behind earlier ones."""
    return f"{prefix}{time.time_ns():016x}{secrets.token_hex(4)}"


def file_object(name: str, filename: str, nbytes: int, purpose: str) -> Object:
    return {
        "id": name,
        "object": "file",
        "bytes": nbytes,
        "created_at": int(time.time()),
        "filename": filename,
        "purpose": purpose,
        "status": "processed",
    }


def batch_object(input_file: str, endpoint: str, window: str, metadata: Mapping[str, str] | None) -> Object:
    """A batch that has just been asked for."""
    return {
        "id": new_id("batch_"),
        "object": "batch",
        "endpoint": endpoint,
        "errors": None,
        "input_file_id": input_file,
        "completion_window": window,
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": int(time.time()),
        **{f"{moment}_at": None for moment in _MOMENTS},
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": metadata,
    }


def become(batch: Object, status: str) -> None:
    """Enter a status, now."""
    batch["status"] = status
    batch[f"{status}_at"] = int(time.time())


def errors_object(errors: Sequence[Mapping[str, Any]]) -> Object:
    """Why a batch as a whole failed."""
    data = [{"code": None, "line": None, "message": "", "param": None} | dict(error) for error in errors]
    return {"object": "list", "data": data}


def list_object(found: Sequence[Object], more: bool) -> Object:
    """A page of a list."""
    first, last = (found[0]["id"], found[-1]["id"]) if found else (None, None)
    return {"object": "list", "data": list(found), "first_id": first, "last_id": last, "has_more": more}
