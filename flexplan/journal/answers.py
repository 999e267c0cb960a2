"""Answers by what was asked: a log in one file, a line an answer, found again by any later run."""

from __future__ import annotations

import os
import socket
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from flexplan.errors import OutputHeld, UsageError
from flexplan.journal.journal import SYNC_EVERY_S
from flexplan.journal.records import Answer, Held, line_of, lines_of
from flexplan.journal.store import FileHandle


class Answers:
    """A mapping that grows: what is kept survives the process at once, and the machine a second later.

    Held by one process at a time: another's opening is OutputHeld.  A line that a killed run left unfinished is cut
    off.  Raises UsageError for a file that is no such log, StorageError where the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = FileHandle(path)
        try:
            if not self._file.lock():
                message = f"{path} is being written by another process"
                raise OutputHeld("FP1202", message, fix="wait for it, or give another file")
            self._found = self._read()
            self._file.append(line_of(Held(os.getpid(), socket.gethostname(), datetime.now().astimezone().isoformat())))
        except BaseException:
            self._file.close()
            raise
        self._synced_s = time.monotonic()

    def _read(self) -> dict[str, Any]:
        """What is whole; what is not ends the file."""
        found, end = dict[str, Any](), 0
        for line in lines_of(self._file.read(0, self._file.size())):
            if line.record is None:
                break
            end = line.end
            if isinstance(line.record, Answer):
                found[line.record.digest] = line.record.found
        if self._file.size() and not end:
            raise UsageError("FP190", f"{self.path} is no log of answers", fix="give another file, or a new one")
        self._file.truncate(end)
        return found

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, digest: str) -> bool:
        return digest in self._found

    def __getitem__(self, digest: str) -> Any:
        return self._found[digest]

    def keep(self, digest: str, found: Any) -> None:
        """Plain data that JSON can say."""
        self._file.append(line_of(Answer(digest, found)))
        self._found[digest] = found
        if time.monotonic() - self._synced_s >= SYNC_EVERY_S:
            self._file.sync()
            self._synced_s = time.monotonic()

    def close(self) -> None:
        """Synced, and not held any more."""
        try:
            self._file.sync()
        finally:
            self._file.close()

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
