"""Every system call on the files of a job, failed once and for ever: an error in words or none, and the same bytes.

`io_faults.c` is preloaded: what Python, torch and the readers of weights call is counted and failed alike, on every
file of the job: policy, prompts, model, offload directory, output, its log.  FLEXPLAN_IO_FAULTS=1 fails each call in
each way; without it a few, spread over all.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_server import JobServer
from policies import THREE_TIERS
from tiny_models import CONFIGS, saved

ALL = bool(os.environ.get("FLEXPLAN_IO_FAULTS"))
LEAN = 2  # calls of each way
PARTS = 16 if ALL else 1  # tests of each way, shared by several processes
LONGEST_S = 10.0
WAYS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "short": -1, "EINTR": errno.EINTR}
SOURCE = Path(__file__).parents[1] / "io_faults.c"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobServer]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    library = tmp_path_factory.mktemp("faults") / "io_faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True)
    found = JobServer(library)
    yield found
    found.close()


class Job:
    """Twelve requests on three tiers, all of its files in one place."""

    def __init__(self, place: Path, server: JobServer) -> None:
        self.place, self.server = place, server
        self.out, self.log = place / "files" / "out.jsonl", place / "stderr"
        files = place / "files"
        files.mkdir()
        saved(CONFIGS["llama"], files / "model")
        (files / "policy.json").write_text(json.dumps(THREE_TIERS))
        lines = (json.dumps({"id": n, "prompt_ids": [3 + n, 40, 7]}) + "\n" for n in range(12))
        (files / "in.jsonl").write_text("".join(lines))
        paths = ["policy.json", "--model", "model", "--prompts", "in.jsonl", "-o", "out.jsonl", "--offload-dir", "off"]
        args = [part if part.startswith("-") else files / part for part in paths]
        self.whole, self.count = b"", 0  # of a run without a fault: its output, its calls
        self.args = ["run", *args, "--device", "cpu", "--dtype", "float32", "--max-new-tokens", 4, "--resume"]

    def run(self, at: int = -1, error: int = 0, for_ever: bool = False) -> int:
        """Its exit code, of a signal below 0; one that hangs is killed."""
        pid = self.server.start(self.args, self.log, (str(self.place / "files"), at, error, for_ever))
        hung = threading.Timer(LONGEST_S, os.kill, (pid, signal.SIGABRT))
        hung.start()
        try:
            return self.server.wait()
        finally:
            hung.cancel()

    def forget(self) -> None:
        """As before the first run."""
        for name in ("out.jsonl", "out.jsonl.job", "out.errors.jsonl"):
            (self.place / "files" / name).unlink(missing_ok=True)
        shutil.rmtree(self.place / "files" / "off", ignore_errors=True)

    @property
    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, server: JobServer) -> Job:
    found = Job(tmp_path_factory.mktemp("job"), server)
    assert found.run() == 0, found.said
    found.whole, found.count = found.out.read_bytes(), int(found.said.rpartition("calls ")[2])
    assert len(found.whole.splitlines()) == 12 and found.count > 200
    return found


@pytest.mark.timeout(7200 if ALL else 300)
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for-ever"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_call_that_fails_is_said_and_the_resume_gives_the_same_bytes(
    job: Job, way: str, for_ever: bool, part: int
) -> None:
    whole, count = job.whole, job.count
    step = PARTS if ALL else max(1, count // LEAN)
    first = part if ALL else (list(WAYS).index(way) * 2 + for_ever) * step // (2 * len(WAYS))  # each way others
    wrong: list[str] = []
    for at in range(first, count, step):
        job.forget()
        code = job.run(at, WAYS[way], for_ever)
        if code not in (0, 2, 4, 6, 7) or "Traceback" in job.said or "FP001" in job.said:
            wrong.append(f"call {at}: ended with {code}: {job.said}")
        if way in ("short", "EINTR") and code:
            wrong.append(f"call {at} was only {way}, and ended with {code}: {job.said}")
        if job.run() or job.out.read_bytes() != whole:
            wrong.append(f"after call {at}, resumed: {job.said}")
    assert not wrong, f"{len(wrong)} of {count}\n" + "\n".join(wrong[:40])
