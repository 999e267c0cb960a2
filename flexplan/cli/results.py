"""Where a job's results go: line by line into a file that is gone on with, or all at the end to a stream."""

from __future__ import annotations

import tempfile
import warnings
from array import array
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flexplan.cli.output import deliver_lines, is_kept, refuse_existing, rescue, say_replaced
from flexplan.errors import FlexplanError, StorageError, UsageError
from flexplan.journal import OUT, FileStore, How, Journal, errors_path, is_beside, log_path, open_journal


@dataclass(frozen=True)
class Target:
    """An output, and how it is written: ``resume`` goes on with a job, ``ordered`` puts it in the input's order."""

    path: Path
    inputs: tuple[str | None, ...] = ()
    overwrite: bool = False
    resume: bool = False
    retry_failed: bool = False
    ordered: bool = False

    @property
    def how(self) -> How:
        """With what is there already."""
        return "resume" if self.resume else "overwrite" if self.overwrite else "new"

    @property
    def files(self) -> tuple[Path, ...]:
        """All that a job writes: the output, and what lies beside one that is a file."""
        if not is_kept(self.path):
            return (self.path,)
        out = self.path.resolve()
        return self.path, errors_path(out), log_path(out)

    def refuse_contradictions(self) -> None:
        """Raise UsageError for flags that exclude each other, or that a stream cannot honour."""
        if self.resume and self.overwrite:
            raise UsageError("FP175", "--resume keeps what --overwrite replaces", fix="give one of them")
        if self.retry_failed and not self.resume:
            raise UsageError("FP179", "--retry-failed without --resume would change nothing", fix="add --resume")
        if is_kept(self.path) and is_beside(self.path):
            message = f"output {self.path} has the name of a file that lies beside an output (.job, .errors)"
            raise UsageError("FP136", message, fix="choose another path")
        asked = [flag for flag, given in (("--resume", self.resume), ("--ordered", self.ordered)) if given]
        if asked and not is_kept(self.path):
            message = f"{asked[0]} needs an output that is a file, {self.path} is a stream"
            raise UsageError("FP180", message, fix="give -o FILE, or leave it out")


class Results(Protocol):
    """What becomes of each request, by its place in the input."""

    resumable: bool  # may it be gone on with after a stop?

    @property
    def done(self) -> frozenset[int]:
        """Places of what need not be run: it was finished, or failed, by an earlier run."""

    @property
    def num_failed(self) -> int:
        """Requests that could not be completed, of earlier runs, too."""

    def begin(self, settings: Mapping[str, str]) -> None:
        """Weights are about to be loaded."""

    def finish(self, place: int, line: str) -> None:
        """A request is completed."""

    def fail(self, place: int, line: str) -> None:
        """A request cannot be."""

    def tick(self) -> None:
        """A pass has ended."""

    def shrink(self, policy: str, block: tuple[int, int]) -> None:
        """Memory gave out: so many rows and micro-batches from here on, for the policy with this digest."""

    def block(self, policy: str) -> tuple[int, int] | None:
        """What an earlier run has shrunk them to."""

    def end(self) -> None:
        """All are done."""


@contextmanager
def opened(target: Target, digests: Mapping[int, str] | None, places: Collection[Path] = ()) -> Iterator[Results]:
    """The results of a job; ``digests`` say what its requests ask for, None where they are random ones.

    Where an output is taken away meanwhile, its lines are kept in one of the ``places``.
    """
    if not is_kept(target.path):
        yield _Poured(target.path, places)
        return
    with open_journal(FileStore(target.path), target.how) as journal:
        kept = _Kept(target, journal, digests)
        try:
            yield kept
            if journal.began:
                journal.sync()
                journal.refuse_gone()
        except FlexplanError as error:
            told = kept.told(error, places)
            if told is error:
                raise
            raise told from error


class _Kept:
    """Into the output and the file of failed requests beside it, each line as it comes."""

    resumable = True

    def __init__(self, target: Target, journal: Journal, digests: Mapping[int, str] | None) -> None:
        self.target, self.journal, self.digests = target, journal, digests or {}
        if target.how == "new":
            for path in (target.path, errors_path(target.path.resolve())):
                refuse_existing(path)
        if digests is not None:
            journal.refuse_other_requests(digests)
        self._warned = False
        failed = journal.failed.items()
        self._again = {n for n, digest in failed if target.retry_failed or self.digests.get(n, "") != digest}

    @property
    def done(self) -> frozenset[int]:
        return frozenset(self.journal.finished) | (frozenset(self.journal.failed) - self._again)

    @property
    def num_failed(self) -> int:
        return len(self.journal.failed)

    def begin(self, settings: Mapping[str, str]) -> None:
        if self.target.overwrite:
            say_replaced(self.target.path)
        self.journal.begin(settings, self._again)

    def finish(self, place: int, line: str) -> None:
        self.journal.finish(place, self.digests.get(place, ""), line)

    def fail(self, place: int, line: str) -> None:
        self.journal.fail(place, self.digests.get(place, ""), line)

    def tick(self) -> None:
        if self.journal.tick() and self.journal.gone() and not self._warned:
            self._warned = True
            which = " and ".join(str(self._path(name)) for name in self.journal.gone())
            warnings.warn(f"{which} was removed; its lines are kept elsewhere at the end", stacklevel=2)

    def shrink(self, policy: str, block: tuple[int, int]) -> None:
        self.journal.shrink(policy, *block)

    def block(self, policy: str) -> tuple[int, int] | None:
        found = self.journal.shrunk
        return (found.rows, found.batches) if found and found.policy == policy else None

    def end(self) -> None:
        if self.target.ordered:
            self.journal.order()

    def _path(self, name: str) -> Path:
        return self.target.path if name == OUT else errors_path(self.target.path.resolve())

    def told(self, error: FlexplanError, places: Collection[Path]) -> FlexplanError:
        """An error with what it leaves; the lines of an output that was taken away are kept elsewhere."""
        finished = len(self.journal.finished)
        gone = self.journal.gone() if isinstance(error, StorageError) else []
        if gone:
            kept = [rescue(self._path(name), "".join(self.journal.lines(name)), places) for name in gone]
            where = " and ".join(str(path) for path in kept if path)
            message = f"{error.message}; what was computed is kept in {where}" if where else error.message
            return StorageError(error.code, message, fix="keep the output where it is until the job ends")
        if self.journal.began and finished and not error.state:
            error.state = f"{finished:,} requests are finished and kept; --resume goes on with the others"
        return error


class _Poured:
    """At the end, in the input's order, failed requests among the others; until then in a file without a name."""

    resumable = False

    def __init__(self, path: Path, places: Collection[Path]) -> None:
        self.path, self.places = path, places
        self.done = frozenset[int]()
        self.num_failed = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - gone with this
        self._places, self._ends = array("Q"), array("Q", [0])

    def begin(self, settings: Mapping[str, str]) -> None:
        return

    def finish(self, place: int, line: str) -> None:
        data = line.encode()
        try:
            self._file.write(data)
        except OSError as error:
            where = tempfile.gettempdir()
            message = f"answers cannot be put aside in {where}: {error.strerror}"
            raise StorageError(
                "FP632", message, fix="make room there, or give -o FILE, which can be gone on with"
            ) from error
        self._places.append(place)
        self._ends.append(self._ends[-1] + len(data))

    def fail(self, place: int, line: str) -> None:
        self.finish(place, line)
        self.num_failed += 1

    def tick(self) -> None:
        return

    def shrink(self, policy: str, block: tuple[int, int]) -> None:
        return

    def block(self, policy: str) -> tuple[int, int] | None:
        return None

    def end(self) -> None:
        deliver_lines(self.path, self._in_order, self.places)

    def _in_order(self) -> Iterator[str]:
        for n in sorted(range(len(self._places)), key=self._places.__getitem__):
            self._file.seek(self._ends[n])
            yield self._file.read(self._ends[n + 1] - self._ends[n]).decode()
