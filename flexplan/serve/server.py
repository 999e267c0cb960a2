"""The server, from its socket to its end."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from flexplan.errors import UsageError

_NEEDED = ("starlette", "uvicorn", "python_multipart")
_HOST = "127.0.0.1"


def serve(command: Sequence[str], state: Path, port: int) -> None:
    """Answer until a signal comes: the first lets the job that runs end after its pass, a second ends it at once.

    ``port`` 0 is any that is free; it is said on standard error.
    """
    lacking = next((name for name in _NEEDED if find_spec(name) is None), None)
    if lacking:
        raise UsageError(
            "FP185", f"serving needs the package {lacking}", fix="pip install '.[serve]' where flexplan is"
        )
    from flexplan.serve.app import application  # these need it
    from flexplan.serve.store import Store
    from flexplan.serve.worker import Worker

    with _listening(port) as listener:
        store = Store(state)
        try:
            worker = Worker(store, command)
            worker.start()
            try:
                _answer(application(store, worker), listener)
            finally:
                _end(worker.stop)
        finally:
            store.close()


def _listening(port: int) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((_HOST, port))
    except (OSError, OverflowError) as error:
        found.close()
        why = getattr(error, "strerror", None) or error
        raise UsageError("FP186", f"--port {port} cannot be had: {why}", fix="give another, or 0 for any") from None
    return found


def _answer(application: object, listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        application, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=5
    )
    address = f"http://{_HOST}:{listener.getsockname()[1]}/v1"
    print(f"batches are taken at {address}; Ctrl-C ends", file=sys.stderr, flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def _end(stop: Callable[[], None]) -> None:
    """However often a signal comes."""
    while True:
        try:
            return stop()
        except KeyboardInterrupt:
            continue
