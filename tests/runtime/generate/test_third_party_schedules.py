"""Schedules of other packages at work: the same tokens from an honest one, an error with its name from any other."""

from __future__ import annotations

from pathlib import Path

import hostile_schedules as hostile
import pytest

pytest.importorskip("torch")

from flexplan_runtime.execute import ExecutionEnv
from flexplan_runtime.generate import OffloadedLM
from policies import opened
from typer.testing import CliRunner

from flexplan import Problem
from flexplan.cli.app import app
from flexplan.errors import PluginError
from flexplan.plan import solve
from flexplan.testing import policy_with

POLICY = policy_with(2, 2, w=(20.0, 60.0), cache=(0.0, 100.0), act=(0.0, 100.0))
PROMPTS = [[5, 6, 7], [8, 9], [11, 12, 13, 14], [3]]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``hostile-Raises`` and so on."""
    hostile.install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def tokens(model: Path, folder: Path, schedule: object, stop: list[int] | None = None) -> list[list[int]]:
    with opened(model, POLICY, folder, schedule=schedule) as lm:
        found: list[list[int]] = lm.generate(PROMPTS, max_new_tokens=6, stop=stop).tolist()
        return found


def test_an_honest_one_makes_the_same_tokens(tiny_opt: Path, installed: Path) -> None:
    expected = tokens(tiny_opt, installed / "a", "zigzag")
    assert tokens(tiny_opt, installed / "b", "hostile-Honest") == expected
    assert tokens(tiny_opt, installed / "c", hostile.Honest()) == expected


def test_a_block_that_stops_early_ends_early(tiny_opt: Path, installed: Path) -> None:
    stop = [tokens(tiny_opt, installed / "a", "zigzag")[0][-6]]  # the first new token of the first row
    expected = tokens(tiny_opt, installed / "b", "zigzag", stop)
    assert tokens(tiny_opt, installed / "c", "hostile-Honest", stop) == expected


@pytest.mark.parametrize("name", ["DiesLater", "TasksForEver", "OnALaneOfItsOwn", "RaisesLater", "Undeclared"])
def test_what_goes_wrong_in_a_run_is_said_with_its_name(name: str, tiny_opt: Path, installed: Path) -> None:
    with ExecutionEnv.create(installed / "tiers", device="cpu", num_threads=1) as env:
        with OffloadedLM(tiny_opt, env, tiny_opt, POLICY, schedule=f"hostile-{name}") as lm:
            for _ in range(2):
                with pytest.raises(PluginError, match=f"schedule hostile-{name} "):
                    lm.generate(PROMPTS, max_new_tokens=2)
        with OffloadedLM(tiny_opt, env, tiny_opt, POLICY) as lm:
            assert lm.generate(PROMPTS, max_new_tokens=2).shape == (4, 6)


@pytest.mark.parametrize("name", ["PassesForEver", "Nothing", "Exits", "Undeclared"])
def test_an_instance_is_named_as_well(name: str, tiny_opt: Path, tmp_path: Path) -> None:
    with (
        opened(tiny_opt, POLICY, tmp_path, schedule=getattr(hostile, name)()) as lm,
        pytest.raises(PluginError, match=f"schedule {name} "),
    ):
        lm.generate(PROMPTS, max_new_tokens=2)


def test_the_command_line_ends_with_its_code(tiny_opt: Path, installed: Path) -> None:
    problem = Problem.of(str(tiny_opt), prompt_len=4, gen_len=2, num_prompts=4)
    text = solve(problem, "manual", policy=POLICY, schedule="hostile-Honest").to_json()
    plan, prompts, output = installed / "plan.json", installed / "prompts.jsonl", installed / "out.jsonl"
    prompts.write_text("".join(f'{{"prompt_ids": {ids}}}\n' for ids in PROMPTS))
    asked = ["run", str(plan), "--device", "cpu", "--model", str(tiny_opt), "--prompts", str(prompts)]
    for name, code in (("Honest", 0), ("Dies", 3)):
        plan.write_text(text.replace("hostile-Honest", f"hostile-{name}"))
        offload = ["--offload-dir", str(installed / name), "-o", str(output)]
        result = CliRunner().invoke(app, [*asked, *offload])
        assert result.exit_code == code, result.stderr
    assert "schedule hostile-Dies failed" in result.stderr
    assert len(output.read_text().splitlines()) == 4
