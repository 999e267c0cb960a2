"""The routes, and errors in OpenAI's form; there is no other route, and no other host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from flexplan.errors import FlexplanError
from flexplan.files import parse_json
from flexplan.serve.asked import batch_of, page, refuse_unknown
from flexplan.serve.objects import OPEN, Refused, batch_object, error_object
from flexplan.serve.store import Store
from flexplan.serve.worker import Worker

_HOSTS = ("127.0.0.1", "localhost")


def application(store: Store, worker: Worker) -> Starlette:
    """OpenAI's ``/v1/files`` and ``/v1/batches`` over a store and its worker."""
    api = _Api(store, worker)
    routes = [
        Route("/v1/files", _guarded(api.upload), methods=["POST"]),
        Route("/v1/files", _guarded(api.files), methods=["GET"]),
        Route("/v1/files/{name}", _guarded(api.file), methods=["GET"]),
        Route("/v1/files/{name}", _guarded(api.remove), methods=["DELETE"]),
        Route("/v1/files/{name}/content", _guarded(api.content), methods=["GET"]),
        Route("/v1/batches", _guarded(api.create), methods=["POST"]),
        Route("/v1/batches", _guarded(api.batches), methods=["GET"]),
        Route("/v1/batches/{name}", _guarded(api.batch), methods=["GET"]),
        Route("/v1/batches/{name}/cancel", _guarded(api.cancel), methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {HTTPException: _no_route, Exception: _broken}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Api:
    """What each route does; all but the upload in a thread, as they read and write files."""

    def __init__(self, store: Store, worker: Worker) -> None:
        self.store = store
        self.worker = worker

    # -- files ---------------------------------------------------------------------------------------------------
    async def upload(self, request: Request) -> Response:
        async with request.form() as form:
            refuse_unknown(form, ("file", "purpose"))
            given, purpose = form.get("file"), form.get("purpose")
            if not isinstance(given, UploadFile):
                raise Refused(400, "file is missing: upload one as multipart/form-data", param="file")
            if purpose != "batch":
                raise Refused(400, f"purpose is {purpose!r:.60}; allowed: batch", param="purpose")
            name = given.filename or "batch.jsonl"
            found = await run_in_threadpool(self.store.add_file, _chunks(given.file), name, purpose)
        return JSONResponse(found)

    def files(self, request: Request) -> Response:
        query = request.query_params
        found = self.store.files()
        if "purpose" in query:
            found = [one for one in found if one["purpose"] == query["purpose"]]
        if query.get("order", "desc") not in ("asc", "desc"):
            raise Refused(400, f"order is {query['order']!r:.60}; allowed: asc, desc", param="order")
        found = found if query.get("order", "desc") == "desc" else found[::-1]
        return JSONResponse(page(found, query, 10_000, 10_000, ("purpose", "order")))

    def file(self, request: Request) -> Response:
        return JSONResponse(self.store.file(request.path_params["name"]))

    def content(self, request: Request) -> Response:
        name = self.store.file(request.path_params["name"])["id"]
        return FileResponse(self.store.content(name), media_type="application/octet-stream")

    def remove(self, request: Request) -> Response:
        name = self.store.file(request.path_params["name"])["id"]
        if self.store.first(lambda batch: batch["input_file_id"] == name and batch["status"] in OPEN):
            raise Refused(409, f"{name} is the input of a batch that has not ended", param="file_id", code="in_use")
        self.store.remove_file(name)
        return JSONResponse({"id": name, "object": "file", "deleted": True})

    # -- batches -------------------------------------------------------------------------------------------------
    async def create(self, request: Request) -> Response:
        try:
            given = batch_of(parse_json((await request.body()).decode()))
        except ValueError as error:
            raise Refused(400, f"the body is not JSON: {error}") from None
        found = await run_in_threadpool(self._create, given)
        return JSONResponse(found)

    def _create(self, given: dict[str, Any]) -> dict[str, Any]:
        source = self.store.file(given["input_file_id"])
        if source["purpose"] != "batch":
            message = f"{source['id']} was not uploaded for a batch, its purpose is {source['purpose']}"
            raise Refused(400, message, param="input_file_id")
        made = batch_object(source["id"], given["endpoint"], given["completion_window"], given.get("metadata"))
        self.store.add_batch(made)
        self.worker.wake()
        return made

    def batches(self, request: Request) -> Response:
        found = page(self.store.batches(), request.query_params, 100, 20)
        return JSONResponse(found | {"data": [self.worker.told(batch) for batch in found["data"]]})

    def batch(self, request: Request) -> Response:
        return JSONResponse(self.worker.told(self.store.batch(request.path_params["name"])))

    def cancel(self, request: Request) -> Response:
        name = request.path_params["name"]
        if (status := self.store.batch(name)["status"]) not in OPEN:
            raise Refused(409, f"{name} cannot be cancelled: it is {status}", param="batch_id", code="has_ended")
        return JSONResponse(self.worker.cancel(name))


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    return iter(partial(file.read, 1 << 20), b"")


def _guarded(route: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """A route that only programs of this machine reach, not pages in its browser; refusals in OpenAI's form."""

    async def answer(request: Request) -> Response:
        try:
            if request.url.hostname not in _HOSTS or "origin" in request.headers:
                raise Refused(403, "only programs on this machine are served, by the name localhost or 127.0.0.1")
            if route.__name__ in ("upload", "create"):
                found: Response = await route(request)
            else:
                found = await run_in_threadpool(route, request)
            return found
        except Refused as error:
            body = error_object(error.status, error.message, error.param, error.code)
            return JSONResponse(body, status_code=error.status)

    return answer


def _no_route(request: Request, error: HTTPException) -> Response:
    known = "served are /v1/files and /v1/batches"
    message = f"{request.method} {request.url.path!r:.80}: {error.detail}; {known}"
    return JSONResponse(error_object(error.status_code, message), status_code=error.status_code)


def _broken(_: Request, error: Exception) -> Response:
    said = str(error) if isinstance(error, FlexplanError) else f"{type(error).__name__}: {error}"
    return JSONResponse(error_object(500, said), status_code=500)
