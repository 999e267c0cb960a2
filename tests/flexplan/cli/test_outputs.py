"""Where answers go: refused before the work where they cannot, appended, never over an input, never lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flexplan.cli import output as output_module
from flexplan.cli.app import app
from flexplan.cli.output import deliver, deliver_lines, refuse_existing, refuse_unwritable, write_text
from flexplan.cli.results import Target, opened
from flexplan.errors import StorageError, UsageError, visible
from flexplan.files import json_line

PROGRAM = "from flexplan.cli.app import main; main()"
SMALL = ("--model", "facebook/opt-125m", "--prompt-len", "16", "--gen-len", "4", "--gpu-batch-size", "2")
FULL = Path("/dev/full")


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def shell(line: str, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of a shell, where ``$SOLVE`` is a small solve."""
    solve = f"{sys.executable} -c '{PROGRAM}' solve {' '.join(SMALL)}"
    given = os.environ | {"XDG_STATE_HOME": str(place / "state")} | environment
    run = ["bash", "-c", line.replace("$SOLVE", solve)]
    return subprocess.run(run, cwd=place, env=given, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "flexplan"


# -- an output is no input ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("link", ["itself", "relative", "symbolic", "hard"])
def test_an_output_that_is_an_input_by_any_name_is_refused(tmp_path: Path, link: str) -> None:
    asked = tmp_path / "problem.toml"
    asked.write_text('model = "facebook/opt-125m"\n')
    names = {"itself": asked, "relative": tmp_path / "x" / ".." / "problem.toml"}
    out = names.get(link, tmp_path / "out")
    (tmp_path / "x").mkdir()
    if link == "symbolic":
        out.symlink_to(asked)
    if link == "hard":
        out.hardlink_to(asked)
    result = call("solve", asked, "-o", out)
    assert result.exit_code == 2 and "FP171" in result.stderr
    assert asked.read_text().startswith("model")


def test_an_output_that_is_a_file_of_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="also an input"):
        refuse_unwritable(tmp_path / "config.json", (tmp_path,))
    refuse_unwritable(tmp_path / "plan.json", (tmp_path,))


def test_a_trace_over_its_own_plan_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert call("solve", *SMALL, "-o", plan).exit_code == 0
    assert call("simulate", plan, "--trace", plan).exit_code == 2
    assert json.loads(plan.read_text())["policy"]


# -- what is there already ---------------------------------------------------------------------------------------
def test_what_stands_in_an_output_is_refused_or_said_to_be_replaced(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert "replaced" not in call("solve", *SMALL, "-o", plan).stderr
    assert f"{plan} was there" in call("solve", *SMALL, "-o", plan).stderr
    with pytest.raises(UsageError, match="exists, with"):
        refuse_existing(plan)
    plan.write_text("")
    refuse_existing(plan)
    refuse_existing(Path("-"))


def test_standard_output_by_its_names_keeps_earlier_lines(tmp_path: Path) -> None:
    for n, name in enumerate(("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link")):
        if name == "link":
            (tmp_path / name).symlink_to("/dev/stdout")
        found = shell(f"echo first > {n}; $SOLVE -o {name} >> {n}; grep -c -e first -e planner {n}", tmp_path)
        assert int(found.stdout) >= 2, (name, found.stderr)


def test_an_open_descriptor_and_a_process_are_outputs(tmp_path: Path) -> None:
    found = shell("exec 7>>seven; echo first >&7; $SOLVE -o /dev/fd/7 >/dev/null; head -2 seven", tmp_path)
    assert found.stdout == "first\n{\n", found.stderr
    found = shell("$SOLVE -o >(cat >copy) >/dev/null; sleep .5; head -c 1 copy", tmp_path)
    assert found.stdout == "{", found.stderr
    found = shell("$SOLVE -o /dev/fd/9 >/dev/null; echo $?", tmp_path)
    assert found.stdout == "2\n" and "not open" in found.stderr


def test_a_named_pipe_waits_for_its_reader_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        write_text(pipe, "text")
        assert reader.communicate()[0] == b"text"
    monkeypatch.setattr(output_module, "_READER_S", 0.1)
    with pytest.raises(StorageError, match="pipe"):
        write_text(pipe, "text")


def test_many_lines_go_to_a_stream_in_their_order_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "_PIECE_CHARACTERS", 20)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader, opened(Target(pipe), {}) as results:
        for place in (3, 1, 0, 2):
            results.finish(place, f"line {place} ü\n")
        results.end()
        assert reader.communicate()[0].decode() == "".join(f"line {place} ü\n" for place in range(4))


# -- nothing is lost ---------------------------------------------------------------------------------------------
def test_what_a_full_disk_refuses_is_kept_where_there_is_room(tmp_path: Path, state: Path) -> None:
    with pytest.raises(StorageError) as found:
        deliver(FULL, "hours of work", (tmp_path / "no such place",))
    (kept,) = state.iterdir()
    with pytest.raises(StorageError, match=r"kept in .*flexplan-rescued") as of_lines:
        deliver_lines(FULL, lambda: ["hours ", "of work"], (tmp_path / "no such place",))
    (again,) = set(state.iterdir()) - {kept}
    assert again.read_text() == "hours of work" and str(again) in str(of_lines.value)
    assert kept.read_text() == "hours of work" and kept.stat().st_mode & 0o777 == 0o600
    assert str(kept) in str(found.value) and found.value.exit_code == 6


def test_a_directory_that_went_away_is_told_with_the_file_that_was_kept(tmp_path: Path, state: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        deliver(tmp_path / "gone" / "out.jsonl", "work", (tmp_path,))
    (kept,) = tmp_path.glob("flexplan-rescued-*.jsonl")
    assert kept.read_text() == "work"


def test_a_half_file_of_a_rescue_is_removed_and_the_next_place_taken(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(handle: int, text: str) -> None:
        os.write(handle, text[:1].encode())
        os.close(handle)
        if len(list(tmp_path.glob("flexplan-rescued-*"))):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(output_module, "_write_open", half)
    with pytest.raises(StorageError, match="No space"):
        monkeypatch.setattr(
            output_module, "write_whole", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
        )
        deliver(tmp_path / "out", "work")
    assert not list(tmp_path.glob("flexplan-rescued-*")) and len(list(state.iterdir())) == 1


def test_a_disk_without_room_is_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="or more, its disk has"):
        refuse_unwritable(tmp_path / "out", at_least_bytes=1 << 60)
    assert not list(tmp_path.iterdir())


def test_a_trace_into_a_missing_directory_is_found_before_the_work(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert call("solve", *SMALL, "-o", plan).exit_code == 0
    result = call("simulate", plan, "--trace", tmp_path / "missing" / "trace.json")
    assert result.exit_code == 2 and "trace.json" in result.stderr and "First block" not in result.stdout


def test_a_name_that_is_too_long_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="File name too long") as caught:
        refuse_unwritable(tmp_path / ("a" * 300))
    assert caught.value.code == "FP164"


def test_a_link_that_leads_to_itself_and_a_socket_are_no_outputs(tmp_path: Path) -> None:
    import socket

    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="link"):
        refuse_unwritable(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        with pytest.raises(UsageError, match="socket"):
            refuse_unwritable(tmp_path / "socket")


# -- standard streams --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("where", "exit_code", "word"),
    [
        (">/dev/full", 6, "No space left"),
        ("--json >/dev/full", 6, "No space left"),
        ("--help >/dev/full", 6, "No space left"),
        (">&-", 6, "closed"),
        ("-o - >&-", 2, "closed"),
        ("2>&- >/dev/null", 0, ""),
        ("2>/dev/full >/dev/null", 0, ""),
        ("-o plan <&- >&- 2>&-", 6, ""),
    ],
)
def test_a_full_or_closed_stream_is_the_error_that_it_is(tmp_path: Path, where: str, exit_code: int, word: str) -> None:
    found = shell(f"$SOLVE {where}", tmp_path)
    assert found.returncode == exit_code, found.stderr
    assert word in found.stderr and "FP001" not in found.stderr and "Traceback" not in found.stderr
    if "plan" in where:
        assert json.loads((tmp_path / "plan").read_text())["policy"]


@pytest.mark.parametrize("command", ["bench plan --model none", "profile -o hardware", "demo"])
def test_a_long_command_looks_first_whether_it_can_say_its_answer(tmp_path: Path, command: str) -> None:
    assert shell("$SOLVE -o plan", tmp_path).returncode == 0
    found = shell(f"{sys.executable} -c '{PROGRAM}' {command} >&-", tmp_path)
    assert found.returncode == 2 and "closed" in found.stderr and "loading" not in found.stderr


def test_a_full_stream_that_is_not_buffered_is_no_bug_either(tmp_path: Path) -> None:
    found = shell("$SOLVE >/dev/full", tmp_path, PYTHONUNBUFFERED="1")
    assert found.returncode == 6 and "No space left" in found.stderr


def test_a_reader_that_has_seen_enough_ends_the_program_quietly(tmp_path: Path) -> None:
    found = shell("$SOLVE | true; echo ${PIPESTATUS[0]}", tmp_path, PYTHONUNBUFFERED="1")
    assert found.stdout in ("141\n", "0\n") and found.stderr == ""


def test_a_terminal_that_lacks_a_letter_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "plän").mkdir()
    found = shell("$SOLVE -o plän/x; echo $?", tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C.UTF-8")
    assert found.stdout.endswith("0\n"), found.stderr


def test_escape_codes_of_a_name_never_reach_a_terminal(tmp_path: Path) -> None:
    name = "x\x1b[31m\x9bred"
    for args in (("solve", "--model", name), ("solve", f"--{name}"), (f"--{name}",), (name,)):
        result = call(*args)
        assert result.exit_code == 2 and "\\x1b[31m" in result.output
        assert "\x1b" not in result.output and "\x9b" not in result.output
    plan = tmp_path / "plan.json"
    assert call("solve", *SMALL, "-o", plan).exit_code == 0
    found: dict[str, Any] = json.loads(plan.read_text())
    found["problem"]["model"]["name"] = name
    plan.write_text(json.dumps(found))
    for command in ("simulate", "explain"):
        shown = call(command, plan).output
        assert "\x1b" not in shown and "\x9b" not in shown, command


def test_visible_text_keeps_letters_of_all_languages() -> None:
    assert visible("Grüße, 你好\tß\n") == "Grüße, 你好\tß\n"
    assert visible("\u202eabc\udc80") == "\\u202eabc\\udc80"


def test_a_line_of_json_is_one_line_of_utf8_to_every_reader() -> None:
    hard = {"text": "Grüße 你好 \u2028 \x85 \x1b \ud800 \U0001f600"}
    line = json_line(hard)
    assert json.loads(line) == hard
    assert len(line.splitlines()) == 1 and "Grüße 你好" in line and "\U0001f600" in line
    line.encode()
