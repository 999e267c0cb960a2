"""The thread that runs batches, the oldest first: each a job that is gone on with, whatever ended the last run."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexplan.journal import errors_path
from flexplan.serve.asked import lines_of
from flexplan.serve.objects import OPEN, Object, become, errors_object
from flexplan.serve.store import Store

_LOOK_S = 0.1
_PATIENCE_S = 30.0  # of a job that was told to end at once
_SOME_FAILED, _HELD = 5, 8  # exit codes of a job
_ERROR = re.compile(r"error\[(FP\d+)\]: (.*)\n(?:fix: (.*))?")


class Worker:
    """Runs the batches of a store until it is stopped; ``command`` does `run`, less prompts and output."""

    def __init__(self, store: Store, command: Sequence[str]) -> None:
        self.store = store
        self.command = list(command)
        self._news = threading.Condition(threading.RLock())
        self._stops = 0  # how often it was told to end
        self._current: str | None = None
        self._job: subprocess.Popen[bytes] | None = None
        self._lines: dict[Path, tuple[int, int]] = {}  # of a growing output: bytes looked at, lines in them
        self._thread = threading.Thread(target=self._work, name="flexplan-batches")

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There may be a batch to run."""
        with self._news:
            self._news.notify_all()

    def cancel(self, name: str) -> Object:
        """Let a batch end; one that runs ends after its pass."""
        with self._news:
            with self.store.changing(name) as batch:
                if batch["status"] in ("validating", "in_progress"):
                    become(batch, "cancelling")
            if batch["status"] == "cancelling" and self._current != name:
                self._finish(name, "cancelled")
            self._news.notify_all()
            return self.told(self.store.batch(name))

    def told(self, batch: Object) -> Object:
        """A batch with its counts as they are now."""
        if batch["status"] in OPEN:
            batch["request_counts"] |= self._counts(batch["id"])
        return batch

    def stop(self) -> None:
        """Told once, the job ends after its pass; told again, at once."""
        with self._news:
            self._stops += 1
            self._news.notify_all()
        while self._thread.is_alive():
            self._thread.join(_LOOK_S)

    # -- its thread ----------------------------------------------------------------------------------------------
    def _work(self) -> None:
        while not self._stops:
            with self._news:
                waiting = self.store.first(lambda batch: batch["status"] in OPEN)
                self._current = waiting["id"] if waiting else None
                if waiting is None:
                    self._news.wait()
                    continue
            self._run(waiting["id"])
            self._current = None

    def _run(self, name: str) -> None:
        """From validating to its end, or until the server stops."""
        if self._begin(name):
            code = self._complete(name)
            if self.store.batch(name)["status"] == "cancelling":
                self._finish(name, "cancelled")
            elif code in (0, _SOME_FAILED):
                self._finish(name, "completed")
            elif code == _HELD:  # by the job of a server that was killed, which ends after its pass
                with self._news:
                    self._news.wait(1.0)
            elif not self._stops:
                self._finish(name, "failed", self._why(name, code))

    def _begin(self, name: str) -> bool:
        """Look at the input; is there something to run?"""
        batch = self.store.batch(name)
        total, errors = lines_of(self.store.content(batch["input_file_id"]), batch["endpoint"])
        with self.store.changing(name) as batch:
            batch["request_counts"]["total"] = total
            if batch["status"] == "validating" and not errors:
                become(batch, "in_progress")
        if batch["status"] == "cancelling":
            self._finish(name, "cancelled")
        elif errors:
            self._finish(name, "failed", errors)
        return bool(batch["status"] == "in_progress")

    def _complete(self, name: str) -> int:
        """Run the job to its end; returns its exit code."""
        folder, batch = self.store.folder(name), self.store.batch(name)
        prompts = str(self.store.content(batch["input_file_id"]))
        job = ("--prompts", prompts, "--format", "openai", "-o", str(self._out(name)), "--resume")
        with (folder / "log").open("wb") as log:
            self._job = subprocess.Popen(
                (*self.command, *job), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            try:
                return self._watched(name, self._job)
            finally:
                self._job.kill()
                self._job.wait()

    def _watched(self, name: str, job: subprocess.Popen[bytes]) -> int:
        told = 0
        while True:
            wanted = min(2, max(self._stops, int(self.store.batch(name)["status"] == "cancelling")))
            while told < wanted:
                job.send_signal(signal.SIGTERM)
                told += 1
            try:
                return job.wait(_PATIENCE_S if told == 2 else _LOOK_S)
            except subprocess.TimeoutExpired:
                if told == 2:
                    return -signal.SIGKILL

    # -- what became of it ---------------------------------------------------------------------------------------
    def _finish(self, name: str, status: str, errors: Sequence[Object] = ()) -> None:
        """What is answered becomes files; whatever the status, nothing that was finished is lost."""
        counts = self._counts(name)
        files = {
            "output_file_id": self._publish(name, self._out(name), "output"),
            "error_file_id": self._publish(name, errors_path(self._out(name)), "error"),
        }
        with self.store.changing(name) as batch:
            become(batch, "finalizing")  # for no longer than this: a server that is killed meanwhile begins anew
            become(batch, status)
            batch.update(files)
            batch["request_counts"] |= counts
            batch["errors"] = errors_object(errors) if errors else None

    def _publish(self, name: str, path: Path, kind: str) -> str | None:
        """A result file of the batch; none where it would be empty."""
        if not path.exists() or not path.stat().st_size:
            return None
        with path.open("rb") as lines:
            found = self.store.add_file(lines, f"{name}_{kind}.jsonl", "batch_output", f"file-{name[6:]}-{kind}")
        return str(found["id"])

    def _out(self, name: str) -> Path:
        return self.store.folder(name) / "out.jsonl"

    def _counts(self, name: str) -> dict[str, int]:
        out = self._out(name)
        return {"completed": self._count(out), "failed": self._count(errors_path(out))}

    def _count(self, path: Path) -> int:
        """Lines of a file that only grows, or is replaced by a shorter one."""
        if not path.exists():
            return 0
        seen, lines = self._lines.get(path, (0, 0))
        with path.open("rb") as file:
            if file.seek(0, 2) < seen:
                seen, lines = 0, 0
            file.seek(seen)
            new = file.read()
        self._lines[path] = seen + len(new), lines + new.count(b"\n")
        return self._lines[path][1]

    def _why(self, name: str, code: int) -> list[Any]:
        """The error that a job ended with."""
        text = (self.store.folder(name) / "log").read_text(errors="replace")
        found = list(_ERROR.finditer(text))
        if not found:
            return [{"code": "job_ended", "message": f"the job ended with exit code {code}: {text[-500:]}"}]
        fp, message, fix = found[-1].groups()
        return [{"code": fp, "message": f"{message}; {fix}" if fix else message}]
