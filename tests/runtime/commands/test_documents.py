"""Every command that the documents show is run.

What cannot be run here, for it takes a GPU, a download, a cluster or minutes, is parsed by whoever would run it; a flag
that is not there any more fails.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import (
    PAGES,
    ROOT,
    parse_checks,
    parse_flexplan,
    parse_make,
    parse_pip,
    parse_pytest,
    parse_script,
    run_script,
    shown,
    shown_with,
)
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.hardware import hardware_from

PARSED: dict[str, tuple[str, Callable[[str], None]]] = {  # how a command begins, who runs it, and who parses it
    "make": ("these are the checks", parse_make),
    ".ci/run": ("these are the checks", parse_checks),
    "pip install": ("the checks, in an environment of their own", parse_pip),
    "pytest -m real_weights": ("a stage of the checks", parse_pytest),
    "python benchmarks/": ("minutes on a machine of its own, most on a GPU", parse_script),
    "flexplan run policy.json --prompts prompts.jsonl -o out.jsonl --ray": (
        "tests/runtime/adapters/test_ray.py",
        parse_flexplan,
    ),
    "flexplan profile": ("tests/runtime/measure/test_measure.py", parse_flexplan),
    "flexplan serve": ("tests/flexplan/serve/test_serve.py", parse_flexplan),
    "flexplan convert": ("tests/runtime/weights/test_gguf.py", parse_flexplan),
    "flexplan demo": ("tests/runtime/commands/test_demo.py", parse_flexplan),
}
ELSEWHERE = {
    "python -m flexplan_runtime.evaluate": "tests/runtime/evaluate/test_lm_eval.py"
}  # where its parser is, too
SCRIPTS = {  # that are run, too: of a small model, or a few MiB
    "python benchmarks/disk_at_its_rate.py --gib 4": "--gib 0.02 --times 1",
    "python benchmarks/perplexity.py SmolLM2-135M-Instruct.Q4_1.gguf": (
        "--tokens 64 --chunk 32 --prompt 16 --dtype float32 --only 'as stored' '4-bit weights'"
    ),
}
PLANS = ("solve", "planners", "lock", "doctor")  # all others take a plan: one for the embedded model


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
    (tmp_path / "lengths.csv").write_text("prompt_tokens,new_tokens\n" + 200 * "3,2\n9,4\n")
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
        if any(command.words.startswith(beginning) for beginning in (*PARSED, *ELSEWHERE)):
            continue
        if "--resume" not in command.words:
            for old in scratch.glob("out.jsonl*"):  # each page begins more than one job
                old.unlink()
        done = CliRunner().invoke(app, typed(command.words, scratch / "model"))
        if command.error:
            assert done.exit_code and f"error[{command.error}]" in done.output, (command, done.output)
        else:
            assert done.exit_code == 0, (command, done.output)


@pytest.mark.parametrize("beginning", PARSED)
def test_what_is_not_run_here_is_parsed_by_whoever_would(beginning: str, scratch: Path) -> None:
    where, parse = PARSED[beginning]
    found = shown_with(beginning)
    assert found  # else it needs no line
    for words in found:
        parse(words)
    if where.startswith("tests/"):
        assert re.search(rf"\b{beginning.split()[1]}\b", (ROOT / where).read_text())
    with pytest.raises((Exception, SystemExit)):
        parse(f"{found[0]} --no-such-flag")


@pytest.mark.parametrize("words", SCRIPTS)
def test_a_script_of_the_documents_runs(words: str, scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown_with(words)
    given = words.replace("SmolLM2-135M-Instruct.Q4_1.gguf", str(scratch / "model"))
    run_script(f"{given} {SCRIPTS[words]}")
    assert re.search(r"\d\.\d", capsys.readouterr().out)


def test_the_documents_are_seen() -> None:
    assert sum(len(list(shown(page))) for page in PAGES) > 60
    assert all(shown_with(beginning) for beginning in ELSEWHERE)
