"""A locked model is what was looked at, or is refused with all that differs."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.errors import ModelFilesError
from flexplan.model.checkpoint import LOCK, find_weights, verify_lock, write_lock
from flexplan.model.checkpoint.lock import refuse_unlike

NAMES = ("a.json", "b.safetensors", "c.txt")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).write_text(f"content of {name}")
    (tmp_path / ".hidden").write_text("")
    return tmp_path


def test_what_was_locked_is_found_again(model: Path) -> None:
    assert tuple(write_lock(model).files) == NAMES
    assert verify_lock(model) == write_lock(model)
    refuse_unlike(model)


def test_all_that_differs_is_said_at_once(model: Path) -> None:
    write_lock(model)
    (model / "a.json").write_text("CONTENT of a.json")
    (model / "b.safetensors").write_text("longer than it was before")
    (model / "c.txt").unlink()
    (model / "d.txt").write_text("new")
    with pytest.raises(ModelFilesError) as quick:
        refuse_unlike(model)
    with pytest.raises(ModelFilesError) as whole:
        verify_lock(model)
    for said in ("b.safetensors: 25 bytes, was 24", "c.txt: is missing", "d.txt: was not there"):
        assert said in str(quick.value) and said in str(whole.value)
    assert "a.json: its SHA-256" in str(whole.value) and "a.json" not in str(quick.value)
    assert quick.value.code == whole.value.code == "FP518"


def test_weights_of_a_changed_directory_are_not_opened(model: Path) -> None:
    write_lock(model)
    (model / "e.safetensors").write_text("")
    with pytest.raises(ModelFilesError, match=r"e.safetensors: was not there"):
        find_weights(model, None, None)  # type: ignore[arg-type]  # before the shape is looked at


@pytest.mark.parametrize(
    "text", ["", "[]", '{"version": 2, "files": {}}', '{"files": {"a": {"bytes": -1, "sha256": ""}}}']
)
def test_a_lock_that_does_not_read_is_refused(text: str, model: Path) -> None:
    (model / LOCK).write_text(text)
    with pytest.raises(ModelFilesError, match=LOCK) as refused:
        refuse_unlike(model)
    assert refused.value.code == "FP517"


def test_the_command_locks_and_checks(model: Path) -> None:
    locked, checked = (CliRunner().invoke(app, ["lock", str(model), *more]) for more in ([], ["--check"]))
    assert locked.exit_code == checked.exit_code == 0 and "3 files" in locked.output and "as locked" in checked.output
    (model / "c.txt").write_text("content of C.txt")
    assert CliRunner().invoke(app, ["lock", str(model), "--check"]).exit_code == 4
    assert CliRunner().invoke(app, ["lock", "nobody/nothing"]).exit_code == 4
