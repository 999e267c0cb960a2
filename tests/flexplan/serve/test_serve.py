"""Batches over HTTP: OpenAI's own client works unchanged, and what was asked survives the server."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
pytest.importorskip("torch")

from documents import shown_with
from flexplan_runtime.embedded import tiny_opt_prompts
from typer.testing import CliRunner

from flexplan.cli.app import app

MANY = 240  # requests: seconds of passes, in blocks of four
# what a shell starts in the background ignores Ctrl-C, and hands that on
_PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "sys.argv[0] = 'flexplan'; from flexplan.cli.app import main; main()"
)


class Server:
    """A real server process on the embedded model, and a client of it."""

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.model = place, model
        self.policy = place / "policy.json"
        self.policy.write_text(json.dumps({"gpu_batch_size": 2, "num_gpu_batches": 2}))
        self.start()

    def start(self) -> None:
        paths = ("--state", self.place / "state", "--offload-dir", self.place / "offload", "--port", 0)
        arguments = ["serve", self.policy, "--model", self.model, "--device", "cpu", "--dtype", "float32", *paths]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *map(str, arguments)], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", said)
        assert found, said + self.process.stderr.read()
        self.address = found[0]
        self.client = openai.OpenAI(base_url=self.address, api_key="none", max_retries=0, timeout=20)

    def end(self, number: int) -> int:
        self.client.close()
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def batch(self, lines: list[dict[str, Any]]) -> Any:
        """Upload these requests and ask for their answers."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        uploaded = self.client.files.create(file=("in.jsonl", text.encode()), purpose="batch")
        assert uploaded.bytes == len(text)
        return self.client.batches.create(
            input_file_id=uploaded.id, endpoint="/v1/completions", completion_window="24h", metadata={"run": "1"}
        )

    def when(self, name: str, ready: Callable[[Any], bool]) -> Any:
        """The batch when it is so."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            batch = self.client.batches.retrieve(name)
            if ready(batch):
                return batch
            time.sleep(0.05)
        raise AssertionError(batch)

    def ended(self, name: str) -> Any:
        return self.when(name, lambda batch: batch.status in ("completed", "failed", "cancelled"))

    def lines(self, file: str | None) -> dict[str, Any]:
        """A result file by ``custom_id``, each once."""
        assert file is not None
        found = [json.loads(line) for line in self.client.files.content(file).text.splitlines()]
        assert len({one["custom_id"] for one in found}) == len(found)
        return {one["custom_id"]: one for one in found}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_opt: Path) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("serve"), tiny_opt)
    yield found
    if found.process.poll() is None:
        found.end(signal.SIGKILL)


def request(name: str, prompt: Any, **more: Any) -> dict[str, Any]:
    body = {"model": "tiny-opt", "prompt": prompt, "max_tokens": 8, **more}
    return {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": body}


def many(prefix: str) -> list[dict[str, Any]]:
    return [request(f"{prefix}{n}", [2, 4 + n % 90, 100 + n]) for n in range(MANY)]


def test_a_batch_is_the_job_that_run_does(server: Server, tmp_path: Path) -> None:
    """A request that cannot be run fails alone."""
    prompts = tiny_opt_prompts()[:5]
    lines = [request(f"r{n}", prompt) for n, prompt in enumerate(prompts)]
    made = server.batch([*lines, request("bad", [70_000])])
    assert (made.status, made.object, made.metadata) == ("validating", "batch", {"run": "1"})
    done = server.ended(made.id)
    assert done.status == "completed", done.errors
    assert done.request_counts.model_dump() == {"total": 6, "completed": 5, "failed": 1}
    (bad,) = server.lines(done.error_file_id).values()
    assert (bad["custom_id"], bad["response"], bad["error"]["code"]) == ("bad", None, "FP305")
    (tmp_path / "in.txt").write_text("".join(prompt + "\n" for prompt in prompts))
    usual = ["--model", server.model, "--offload-dir", tmp_path, "--device", "cpu", "--dtype", "float32"]
    job = ["run", server.policy, *usual, "--prompts", tmp_path / "in.txt", "-o", tmp_path / "out.jsonl"]
    assert CliRunner().invoke(app, [*map(str, job), "--max-new-tokens", "8"]).exit_code == 0
    wanted = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    answers = server.lines(done.output_file_id)
    for one in wanted:
        body = answers[f"r{one['id']}"]["response"]["body"]
        completion = openai.types.Completion.model_validate(body)
        assert (completion.choices[0].text, completion.choices[0].finish_reason) == (one["text"], one["finish_reason"])
        assert completion.usage.completion_tokens == len(one["token_ids"])


def test_a_server_that_was_killed_goes_on_with_what_it_had(server: Server) -> None:
    """Killed in the middle of a batch: nothing is lost, nothing is answered twice."""
    first = server.batch(many("a"))
    server.when(first.id, lambda batch: 0 < batch.request_counts.completed < MANY)
    server.end(signal.SIGKILL)
    server.start()
    done = server.ended(first.id)
    assert (done.status, done.request_counts.completed) == ("completed", MANY), done.errors
    assert server.lines(done.output_file_id).keys() == {f"a{n}" for n in range(MANY)}


def test_batches_are_cancelled_and_their_server_ends_at_a_signal(server: Server) -> None:
    """What runs ends after its pass with what it has; what waits ends at once; the next one runs on after a restart."""
    running, waiting, later = server.batch(many("c")), server.batch(many("d")), server.batch(many("e"))
    server.when(running.id, lambda batch: batch.request_counts.completed > 0)
    assert server.client.batches.cancel(waiting.id).status == "cancelled"
    assert server.client.batches.cancel(running.id).status == "cancelling"
    done = server.ended(running.id)
    assert done.status == "cancelled" and done.cancelled_at and 0 < done.request_counts.completed < MANY
    assert len(server.lines(done.output_file_id)) == done.request_counts.completed
    with pytest.raises(openai.ConflictError, match="it is cancelled"):
        server.client.batches.cancel(running.id)
    before = server.when(later.id, lambda batch: batch.request_counts.completed > 0)
    assert server.end(signal.SIGINT) == 130
    server.start()
    after = server.client.batches.retrieve(later.id)
    assert after.status == "in_progress" and after.request_counts.completed >= before.request_counts.completed
    names = [batch.id for batch in server.client.batches.list(limit=2)]  # the client asks for page after page
    assert names[:3] == [later.id, waiting.id, running.id] and len(names) == 5
    server.client.batches.cancel(later.id)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/models", None, 404, "served are /v1/files and /v1/batches"),
        ("POST", "/completions", {}, 404, "served are"),
        ("DELETE", "/batches", None, 405, "Method Not Allowed"),
        ("GET", "/batches/batch_no", None, 404, "No such batch: 'batch_no'"),
        ("GET", "/files/..%2f..%2flock", None, 404, ""),
        ("GET", "/files/file-no/content", None, 404, "No such file"),
        ("GET", "/batches?limit=0", None, 400, "allowed: 1 to 100"),
        ("GET", "/files?order=up", None, 400, "allowed: asc, desc"),
        ("GET", "/batches?before=batch_no", None, 400, "'before' is not honoured"),
        ("POST", "/batches", [], 400, "no JSON object"),
        ("POST", "/batches", {"input_file_id": "file-no"}, 400, "endpoint is None"),
        ("POST", "/batches", {"endpoint": "/v1/embeddings"}, 400, "allowed: /v1/completions"),
        ("POST", "/batches", {"output_expires_after": {}}, 400, "'output_expires_after' is not honoured"),
        ("POST", "/files", {}, 400, "file is missing"),
    ],
)
def test_what_is_not_served_is_refused_in_openais_form(
    method: str, path: str, body: Any, status: int, says: str, server: Server
) -> None:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(server.address + path, data, {"Content-Type": "application/json"}, method=method)
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(asked, timeout=10)
    found = json.loads(raised.value.read())["error"]
    assert raised.value.code == status and says in found["message"]
    assert found.keys() == {"message", "type", "param", "code"} and found["type"] == "invalid_request_error"


def test_batches_that_cannot_be_run_fail_with_the_reason(server: Server) -> None:
    wrong = request("w", "x") | {"url": "/v1/chat/completions"}
    failed = server.ended(server.batch([request("v", "x"), wrong]).id)
    assert failed.status == "failed" and failed.failed_at
    assert [(e.code, e.line) for e in failed.errors.data] == [("mismatched_endpoint", 2)]
    with pytest.raises(openai.BadRequestError, match="purpose is 'assistants'"):
        server.client.files.create(file=("x.jsonl", b"{}"), purpose="assistants")
    refused = server.ended(server.batch([request("n", "x", stream=True)]).id)
    assert (refused.status, refused.output_file_id) == ("failed", None)
    assert refused.errors.data[0].code == "FP318" and "stream" in refused.errors.data[0].message
    name = failed.input_file_id
    assert server.client.files.delete(name).deleted
    with pytest.raises(openai.NotFoundError):
        server.client.files.retrieve(name)


def test_pages_in_a_browser_do_not_reach_it(server: Server) -> None:
    for headers in ({"Origin": "https://example.org"}, {"Host": "example.org"}):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(server.address + "/files", headers=headers), timeout=10)


def test_a_second_server_of_the_same_state_is_refused(server: Server) -> None:
    taken = server.address.removesuffix("/v1").rpartition(":")[2]
    base = ["serve", str(server.policy), "--model", str(server.model)]
    again = CliRunner().invoke(app, [*base, "--state", str(server.place / "state"), "--port", "0"])
    assert (again.exit_code, "FP1203" in again.output) == (8, True), again.output
    again = CliRunner().invoke(app, [*base, "--state", str(server.place / "other"), "--port", taken])
    assert (again.exit_code, "FP186" in again.output) == (2, True), again.output


@pytest.mark.parametrize("words", shown_with("flexplan serve"))
def test_a_command_of_the_documents_starts_and_answers(words: str, tiny_opt: Path, tmp_path: Path) -> None:
    """Of the embedded model, at a port that is free; what the page says of it is left as it is."""
    (tmp_path / "policy.json").write_text(json.dumps({"gpu_batch_size": 2, "num_gpu_batches": 2}))
    _, *shown = shlex.split(words.replace("facebook/opt-30b", str(tiny_opt)))
    model = () if "--model" in shown else ("--model", str(tiny_opt))
    arguments = [*shown, *model, "--device", "cpu", "--port", "0", "--state", str(tmp_path / "state")]
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stderr is not None
    said, found = "", None
    try:
        while not found:
            line = process.stderr.readline()
            assert line, said
            said, found = said + line, re.search(r"http://127\.0\.0\.1:\d+/v1", line)
        with openai.OpenAI(base_url=found[0], api_key="none", max_retries=8) as client:  # it is about to listen
            assert client.batches.list().data == []
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, 143)
        process.stderr.close()
