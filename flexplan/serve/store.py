"""Files and batches on the disk, one server at a time: each object is a JSON file that is replaced whole."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from flexplan.errors import OutputHeld, StorageError
from flexplan.files import remove_leftovers, replacing, write_whole
from flexplan.serve.objects import Object, Refused, file_object, new_id


class Store:
    """What clients have uploaded and asked for; it is all there again after a restart.

    Raises OutputHeld while another server has the directory, StorageError where it cannot be used.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.RLock()
        try:
            for folder in (self._files, self._batches):
                folder.mkdir(parents=True, exist_ok=True)
            self._held = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            message = f"--state {root} cannot be used: {error.strerror or error}"
            raise StorageError("FP620", message, fix="give a directory that can be written to") from error
        try:
            flock(self._held, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            os.close(self._held)
            message = f"another server has --state {root}"
            raise OutputHeld("FP1203", message, fix="end it, or give another directory") from None
        remove_leftovers(self._files)

    def close(self) -> None:
        """Let others have it."""
        os.close(self._held)

    @property
    def _files(self) -> Path:
        return self.root / "files"

    @property
    def _batches(self) -> Path:
        return self.root / "batches"

    # -- files ---------------------------------------------------------------------------------------------------
    def add_file(self, chunks: Iterable[bytes], filename: str, purpose: str, name: str | None = None) -> Object:
        """Keep a file's content; an object of the same ``name`` is replaced."""
        name = name or new_id("file-")
        with replacing(self.content(name)) as out:
            out.writelines(chunks)
        found = file_object(name, filename, self.content(name).stat().st_size, purpose)
        write_whole(self._files / f"{name}.json", json.dumps(found))  # behind its content: there is none without
        return found

    def content(self, name: str) -> Path:
        """Where a file's content is."""
        return self._files / f"{name}.jsonl"

    def file(self, name: str) -> Object:
        return _read(self._files / f"{name}.json", "file", name)

    def files(self) -> list[Object]:
        """The newest first."""
        return [json.loads(path.read_text()) for path in sorted(self._files.glob("file-*.json"), reverse=True)]

    def remove_file(self, name: str) -> None:
        (self._files / f"{name}.json").unlink(missing_ok=True)
        self.content(name).unlink(missing_ok=True)

    # -- batches -------------------------------------------------------------------------------------------------
    def folder(self, batch: str) -> Path:
        """Where a batch's job is."""
        return self._batches / batch

    def batch(self, name: str) -> Object:
        return _read(self.folder(name) / "batch.json", "batch", name)

    def batches(self) -> list[Object]:
        """The newest first."""
        return [json.loads(path.read_text()) for path in sorted(self._batches.glob("*/batch.json"), reverse=True)]

    def add_batch(self, batch: Object) -> None:
        self.folder(batch["id"]).mkdir()
        write_whole(self.folder(batch["id"]) / "batch.json", json.dumps(batch))

    @contextmanager
    def changing(self, name: str) -> Iterator[Object]:
        """A batch that is written back; nobody else changes one meanwhile."""
        with self._lock:
            batch = self.batch(name)
            yield batch
            write_whole(self.folder(name) / "batch.json", json.dumps(batch))

    def first(self, wanted: Callable[[Object], bool]) -> Object | None:
        """The oldest such batch."""
        return next(filter(wanted, reversed(self.batches())), None)


def _read(path: Path, kind: str, name: str) -> Object:
    try:
        if not name.replace("_", "").replace("-", "").isalnum():
            raise FileNotFoundError
        found: Object = json.loads(path.read_text())
        return found
    except FileNotFoundError:
        raise Refused(404, f"No such {kind}: {name!r:.80}", param=f"{kind}_id", code="not_found") from None
