"""Journals that crash at every call, by power and by kill: what was acknowledged stays, once and unchanged.

The simulation is shown to see what it looks for: each broken variant of the journal is caught.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from crash_store import Crash, CrashHandle, CrashStore, File

from flexplan.journal import ERRORS, LOG, OUT, Journal, open_journal, recovery
from flexplan.journal import journal as journal_module

TRIALS = int(os.environ.get("FLEXPLAN_CRASH_TRIALS", "400"))
AT_ONCE = 400  # in one test: many are shared by several processes
REQUESTS = 12
pytestmark = pytest.mark.filterwarnings("ignore:the file of failed requests is gone")
SETTINGS = {"model": "m", "dtype": "float32"}


def digest(number: int) -> str:
    return f"{number:016x}"


def line(number: int, attempt: int) -> str:
    """What a request gives; another attempt gives another text, so that a line computed anew is seen."""
    return json.dumps({"id": number, "attempt": attempt, "text": "x" * (number * 7 % 60)}) + "\n"


class Trial:
    """One job, crashed up to four times and resumed until it is done."""

    def __init__(self, seed: int, *, power: bool) -> None:
        self.random = Random(seed)
        self.store = CrashStore(self.random, power=power)
        self.power = power
        self.written: dict[str, list[str]] = {OUT: [], ERRORS: []}
        self.shrunk = 0  # how often memory gave out; the size that is written grows with it
        self.promised: dict[str, set[str]] = {OUT: set(), ERRORS: set()}  # lines that must be there for ever

    def run(self) -> None:
        for attempt in range(self.random.randint(1, 4)):
            self.store.crash_after(self.random.randint(0, 70))
            try:
                self.attempt(attempt)
            except Crash:
                self.promise()
                self.store.restart()
                self.check_promises()
                self.lose_failed()
        self.store.crash_after(1 << 30)
        self.attempt(9)
        self.check_whole()

    def lose_failed(self) -> None:
        """Now and then somebody removes or empties the file of failed requests, and they are tried again."""
        if ERRORS in self.store.files and self.random.random() < 0.2:
            self.promised[ERRORS].clear()
            if self.random.random() < 0.5:
                del self.store.files[ERRORS]
            else:
                self.store.files[ERRORS] = File(named=True)

    def attempt(self, attempt: int) -> None:
        journal = open_journal(self.store, "resume", clock=lambda: self.random.randint(0, 3))
        self.journal = journal
        again = set(journal.failed) if self.random.random() < 0.2 else set()
        skip = set(journal.finished) | set(journal.failed) - again
        if again:  # they are tried again, by a promise of somebody else
            self.promised[ERRORS].clear()
        journal.begin(SETTINGS, again)
        for number in self.random.sample(range(REQUESTS), REQUESTS):
            if number not in skip:
                fails = number % 5 == 3 and number not in again
                (journal.fail if fails else journal.finish)(number, digest(number), line(number, attempt))
                journal.tick()
                if self.random.random() < 0.05:
                    journal.shrink("policy", self.shrunk + 1, 1)
                    self.shrunk += 1
            self.acknowledge()
        journal.order()
        journal.close()

    def acknowledge(self) -> None:
        """What the journal says is safe must be found after any crash."""
        if self.journal.synced >= len(self.journal.finished) + len(self.journal.failed):
            self.promise(all_written=True)

    def promise(self, *, all_written: bool = False) -> None:
        """A kill loses nothing that is whole; the loss of power only what was not acknowledged."""
        if self.power and not all_written:
            return
        self.promised[OUT] |= self.lines(OUT)
        if all_written:
            self.promised[ERRORS] |= self.lines(ERRORS)

    def lines(self, name: str) -> set[str]:
        return {one.decode() for one in self.store.read(name).splitlines(keepends=True) if one.endswith(b"\n")}

    def check_promises(self) -> None:
        journal = open_journal(self.store, "resume")
        for name, promised in self.promised.items():
            lost = promised - self.lines(name)
            assert not lost, f"{name}: lost {lost}"
        assert (journal.shrunk.rows if journal.shrunk else 0) >= self.shrunk
        assert sorted(self.numbers(OUT)) == sorted(journal.finished)
        assert sorted(self.numbers(ERRORS)) == sorted(journal.failed)
        journal.close()

    def numbers(self, name: str) -> list[int]:
        return [json.loads(one)["id"] for one in self.store.read(name).splitlines()]

    def check_whole(self) -> None:
        found = self.numbers(OUT)
        assert found == sorted(set(found)), "doubled, or not in order"
        assert sorted(found + self.numbers(ERRORS)) == list(range(REQUESTS))
        assert self.promised[OUT] <= self.lines(OUT)


def failures(power: bool, trials: int) -> int:
    """How many trials show a fault; whatever a broken journal raises is one."""
    found = 0
    for seed in range(trials):
        try:
            Trial(seed, power=power).run()
        except Exception:
            found += 1
    return found


@pytest.mark.parametrize("first", range(0, TRIALS, AT_ONCE))
@pytest.mark.parametrize("power", [True, False], ids=["power", "kill"])
def test_nothing_acknowledged_is_lost_doubled_or_changed(power: bool, first: int) -> None:
    for seed in range(first, min(first + AT_ONCE, TRIALS)):
        try:
            Trial(seed, power=power).run()
        except BaseException as error:
            raise AssertionError(f"seed {seed}, power {power}") from error


def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrashHandle, "sync", lambda self: self.store.step())


def _no_sync_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrashStore, "sync_names", lambda self: self.store.step())


def _no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """As plain lines are resumed: what is long enough is believed."""
    monkeypatch.setattr(recovery._Follower, "holds", lambda self, n, record: True)


def _written_before_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Journal._add

    def add(self: Journal, name: str, number: int, told: str, text: str) -> None:
        self._handles[name].append(text.encode())
        silent = type("Silent", (), {"append": lambda *_: None, "truncate": lambda *_: None})()
        handle, self._handles[name] = self._handles[name], silent
        try:
            real(self, name, number, told, text)
        finally:
            self._handles[name] = handle

    monkeypatch.setattr(Journal, "_add", add)


def _no_sync_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    real = CrashHandle.sync
    monkeypatch.setattr(CrashHandle, "sync", lambda self: self.store.step() if self.name == LOG else real(self))


Break = Callable[[pytest.MonkeyPatch], Any]


@pytest.mark.parametrize(
    ("power", "broken"),
    [
        (True, _no_sync),
        (True, _no_sync_of_names),
        (True, _no_checksums),
        (False, _no_checksums),
        (False, _written_before_announced),
        (True, _no_sync_of_the_log),
    ],
)
def test_a_broken_journal_is_caught(power: bool, broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failures(power, 40) == 0
    broken(monkeypatch)
    assert failures(power, 200) >= 2  # 1 %


def test_a_second_passes_between_two_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    store = CrashStore(Random(0), power=False)
    calls: list[str] = []
    real = CrashHandle.sync
    monkeypatch.setattr(CrashHandle, "sync", lambda self: (calls.append(self.name), real(self)))
    journal = open_journal(store, "new", clock=lambda: now[0])
    journal.begin(SETTINGS)
    calls.clear()
    for number in range(100):
        now[0] += 0.1
        journal.finish(number, digest(number), line(number, 0))
        journal.tick()
    assert 9 <= calls.count(OUT) <= 10 / journal_module.SYNC_EVERY_S
    assert journal.synced < 100
    journal.close()
    assert journal.synced == 100
