"""Files that appear whole or not at all: what a killed writer leaves is removed, what a living one writes is not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flexplan import files
from flexplan.files import remove_leftovers, replacing

WRITER = """
import sys
from pathlib import Path
from flexplan.files import replacing
with replacing(Path(sys.argv[1]), synced=False) as out:
    out.write(b"half")
    out.flush()
    print("half is written", flush=True)
    sys.stdin.read()
    out.write(b" and half")
"""


@contextmanager
def half_way(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has written half of a file; it writes the rest when its input ends."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half is written\n"
        try:
            yield writer
        finally:
            writer.kill()


def write(path: Path, data: bytes = b"other") -> None:
    with replacing(path, synced=False) as out:
        out.write(data)


def test_a_killed_writers_part_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    with half_way(tmp_path / "first") as writer:
        writer.kill()
        writer.wait()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"half"]
    write(tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


def test_a_living_writers_part_stays(tmp_path: Path) -> None:
    with half_way(tmp_path / "first") as writer:
        write(tmp_path / "second")
        remove_leftovers(tmp_path)
        writer.communicate()
        assert writer.returncode == 0
    assert (tmp_path / "first").read_bytes() == b"half and half"
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}


def test_other_hidden_files_stay(tmp_path: Path) -> None:
    (tmp_path / ".notes").touch()
    os.mkfifo(tmp_path / ".pipe.flexplan-part")  # opening it must not hang
    (tmp_path / ".link.flexplan-part").symlink_to(tmp_path / ".notes")
    write(tmp_path / "file")
    assert {".notes", ".link.flexplan-part"} <= {path.name for path in tmp_path.iterdir()}


def test_an_error_leaves_nothing_and_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "file", b"before")
    with pytest.raises(RuntimeError), replacing(tmp_path / "file", synced=False) as out:
        out.write(b"half")
        raise RuntimeError
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_a_part_that_is_removed_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[Path] = []

    def late(handle: int, how: int) -> None:
        if how == fcntl.LOCK_EX and not removed:
            remove_leftovers(tmp_path)  # another writer begins just now
            removed.append(tmp_path)
            assert not list(tmp_path.iterdir())
        fcntl.flock(handle, how)

    monkeypatch.setattr(files, "flock", late)
    write(tmp_path / "file", b"whole")
    assert removed
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


def test_a_file_system_without_locks_keeps_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(files, "flock", refuse)
    with replacing(tmp_path / "first", synced=False) as out:
        write(tmp_path / "second")
        out.write(b"whole")
    assert (tmp_path / "first").read_bytes() == b"whole"
