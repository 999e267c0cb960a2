"""Every command that the documents show is run, or says here why not; the smaller the better, but for nothing else."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.hardware import hardware_from

ROOT = Path(__file__).parents[3]
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
PROGRAMS = re.compile(r"(\$ )?(flexplan|python|make|pip|pytest|\.ci/run)( .*|$)")
NOT_RUN = {  # how a command begins, and who runs it
    "make": "the checks themselves",
    ".ci/run": "the checks themselves",
    "pip install": "the checks, but for the clone's address",
    "pytest -m real_weights": "a stage of the checks",
    "python benchmarks/": "minutes on a machine of its own, most on a GPU",
    "python -m flexplan_runtime.evaluate run": "tests/runtime/evaluate, without a network",
    "flexplan run policy.json --prompts prompts.jsonl -o out.jsonl --ray": "tests/runtime/adapters, with the extra",
    "flexplan profile": "minutes; tests/runtime/measure",
    "flexplan serve": "tests/flexplan/serve",
    "flexplan convert": "the tests of GGUF files, with the extra",
    "flexplan demo": "tests/runtime/commands/test_demo.py",
    "flexplan doctor": "tests/flexplan/cli/test_doctor.py: its answer is the machine's",
}
PLANS = ("solve", "planners", "lock")  # all others take a plan: one for the embedded model


class Shown(NamedTuple):
    """A command of a page, and the error that the page shows below it, or none."""

    words: str
    error: str | None


def shown(page: str) -> Iterator[Shown]:
    """The commands in the blocks of a page that are no other language."""
    for language, block in re.findall(r"^ *```([^\n]*)\n(.*?)^ *```$", (ROOT / page).read_text(), re.S | re.M):
        if language:
            continue
        lines = [re.sub(r"\s{2,}#.*", "", line).strip() for line in re.sub(r"\\\n\s*", "", block).splitlines()]
        for line, below in zip(lines, [*lines[1:], ""], strict=True):
            if found := PROGRAMS.fullmatch(line):
                error = re.match(r"error\[(FP\d+)\]", below)
                yield Shown(line.removeprefix("$ "), error[1] if error and found[1] else None)


def typed(words: str, model: Path) -> list[str]:
    """The arguments: of several to choose from the first, of what may be given nothing, of a search a quick one."""
    words = re.sub(r"\s\[[^]]*\]", "", re.sub(r"(\w[\w.-]*)(\|[\w.-]+)+", r"\1", words))
    _, command, *rest = shlex.split(words.replace("$MODEL", str(model)))
    rest = [str(model) if word in ("MODEL", "DIR_OR_NAME") else word for word in rest]
    if command == "solve" and "--percent" not in rest and not any(word.endswith(".toml") for word in rest):
        rest += ["--effort", "quick"]
    if command not in PLANS:
        rest = ["small.json" if word in ("policy.json", "plan.json") else word for word in rest]
    if command in ("run", "bench"):
        rest += ["--device", "cpu"]
    return [command, *rest]


@pytest.fixture
def scratch(tmp_path: Path, tiny_opt: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What commands find: prompts, a measured machine, the examples, a plan for the embedded model."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_opt, tmp_path / "model")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "prompts.txt").write_text("The with statement\nAn exception is raised when the\n")
    (tmp_path / "hardware.json").write_text(hardware_from("h100-pcie5").model_dump_json())
    small = (
        "solve --model model --hardware cpu-host --gpu-mem 4M --cpu-mem 8M --prompt-len 40 --gen-len 24 -o small.json"
    )
    assert CliRunner().invoke(app, small.split()).exit_code == 0
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if any(shown(page))])
def test_commands_of_the_documents_do_what_they_say(page: str, scratch: Path) -> None:
    """In the order of the page, one finding what those before it wrote."""
    for command in dict.fromkeys(shown(page)):
        if any(command.words.startswith(beginning) for beginning in NOT_RUN):
            continue
        if "--resume" not in command.words:
            for old in scratch.glob("out.jsonl*"):  # each page begins more than one job
                old.unlink()
        done = CliRunner().invoke(app, typed(command.words, scratch / "model"))
        if command.error:
            assert done.exit_code and f"error[{command.error}]" in done.output, (command, done.output)
        else:
            assert done.exit_code == 0, (command, done.output)


def test_each_reason_is_needed() -> None:
    commands = [command.words for page in PAGES for command in shown(page)]
    assert len(commands) > 40  # it sees them
    assert all(any(words.startswith(beginning) for words in commands) for beginning in NOT_RUN)
