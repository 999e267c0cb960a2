"""A file system in memory that crashes: what was not synced is lost, torn or zeroed; a killed process loses nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from flexplan.journal.store import Handle

BLOCK = 32  # bytes that are lost together


class Crash(BaseException):
    """The machine, or the process, is gone."""


@dataclass
class File:
    """What the process sees, how much of it is on the disk, and whether its name is."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    named: bool = False


class CrashStore:
    """``power``: a crash loses what was not synced; else it is a kill, and the system keeps all that was written."""

    def __init__(self, random: Random, *, power: bool) -> None:
        self.random, self.power = random, power
        self.files: dict[str, File] = {}
        self.left = 1 << 30  # calls until the crash

    # -- a store -------------------------------------------------------------------------------------------------
    def exists(self, name: str) -> bool:
        return name in self.files

    def open(self, name: str) -> CrashHandle:
        self.step()
        self.files.setdefault(name, File())
        return CrashHandle(self, name)

    def lock(self, name: str) -> Handle | None:
        return self.open(name)

    def read(self, name: str) -> bytes:
        return bytes(self.files[name].data) if name in self.files else b""

    def replace(self, name: str, chunks: Iterable[bytes]) -> None:
        data = b"".join(chunks)
        self.step()
        self.files[name] = File(bytearray(data), data, True)
        self.step()

    def remove(self, name: str) -> None:
        self.step()
        self.files.pop(name, None)

    def sync_names(self) -> None:
        self.step()
        for file in self.files.values():
            file.named = True

    # -- its end -------------------------------------------------------------------------------------------------
    def step(self) -> None:
        """One call less until the crash."""
        self.left -= 1
        if self.left < 0:
            raise Crash

    def crash_after(self, calls: int) -> None:
        self.left = calls

    def restart(self) -> None:
        """What the next process finds."""
        self.left = 1 << 30
        if not self.power:
            return
        for name, file in list(self.files.items()):
            if not file.named and self.random.random() < 0.5:
                del self.files[name]
                continue
            file.data = self._survived(file)
            file.durable, file.named = bytes(file.data), True

    def _survived(self, file: File) -> bytearray:
        """The synced part; behind it some of what was written, blocks of it zero."""
        safe, whole = len(file.durable), len(file.data)
        if whole <= safe:
            return bytearray(file.data if self.random.random() < 0.5 else file.durable)  # it was cut off, maybe
        kept = bytearray(file.data[: self.random.randint(safe, whole)])
        for at in range(safe, len(kept), BLOCK):
            if self.random.random() < 0.3:
                kept[at : at + BLOCK] = bytes(len(kept[at : at + BLOCK]))
        return kept


class CrashHandle:
    """A file of it."""

    def __init__(self, store: CrashStore, name: str) -> None:
        self.store, self.name, self.file = store, name, store.files[name]

    def size(self) -> int:
        return len(self.file.data)

    def read(self, offset: int, nbytes: int) -> bytes:
        return bytes(self.file.data[offset : offset + nbytes])

    def append(self, data: bytes) -> None:
        try:
            self.store.step()
        except Crash:
            self.file.data += data[: self.store.random.randint(0, len(data))]
            raise
        self.file.data += data

    def truncate(self, nbytes: int) -> None:
        self.store.step()
        del self.file.data[nbytes:]
        if nbytes < len(self.file.durable):
            self.file.durable = self.file.durable[:nbytes]

    def sync(self) -> None:
        self.store.step()
        self.file.durable = bytes(self.file.data)

    def is_gone(self) -> bool:
        return self.store.files.get(self.name) is not self.file

    def close(self) -> None:
        return
