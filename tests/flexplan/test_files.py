"""Files and directories that a kill leaves half-made: the next run removes them, and no living process's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flexplan import files
from flexplan.files import probe, replacing, workshop, write_whole

WRITER = """
import os, signal, sys
from flexplan import files
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
files.write_whole(sys.argv[1], "half of an answer")
"""
WORKER = """
import sys
from pathlib import Path
from flexplan.files import workshop
with workshop(Path(sys.argv[1])) as folder:
    (folder / "made").write_text("half")
    print("at work", flush=True)
    sys.stdin.read()
"""


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("next_run", [probe, lambda path: write_whole(path, "whole")], ids=["a look", "a file"])
def test_a_kill_in_the_middle_of_writing_leaves_nothing_after_the_next_run(
    next_run: Callable[[Path], None], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("before")
    killed = subprocess.run([sys.executable, "-c", WRITER, str(output)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    next_run(tmp_path / "other")
    assert [name for name in names(tmp_path) if name != "other"] == ["out.jsonl"]
    assert output.read_text() == "before"


def test_a_killed_workshop_goes_and_a_living_one_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"at work\n"
        with workshop(tmp_path):
            assert len(names(tmp_path)) == 2
        worker.kill()
        worker.wait()
        assert len(names(tmp_path)) == 1
        with workshop(tmp_path) as mine:
            assert names(tmp_path) == [mine.name]
    assert names(tmp_path) == []


def test_files_of_others_that_look_like_parts_stay(tmp_path: Path) -> None:
    for name in (".film.part", ".out.jsonl.abcdefgh", "out.flexplan-part"):
        (tmp_path / name).touch()
    write_whole(tmp_path / "out", "whole")
    assert names(tmp_path) == [".film.part", ".out.jsonl.abcdefgh", "out", "out.flexplan-part"]


def test_a_file_keeps_its_mode_and_a_new_one_has_the_usual(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "new", "text")
        (tmp_path / "old").touch(mode=0o600)
        write_whole(tmp_path / "old", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o600


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    name = "ü" * 127
    write_whole(tmp_path / name, "text")
    assert names(tmp_path) == [name]


def test_what_is_replaced_is_synced_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[bool] = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: there.append((tmp_path / "file").exists()))
    with replacing(tmp_path / "file") as out:
        out.write(b"whole")
    assert there == [False]
