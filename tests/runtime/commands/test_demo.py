"""The demo shows what it promises."""

from __future__ import annotations

import json

import pytest
from flexplan_runtime.commands import demo
from typer.testing import CliRunner

from flexplan.cli.app import app


def test_demo_puts_weights_and_cache_on_all_tiers_and_keeps_the_tokens() -> None:
    result = CliRunner().invoke(app, ["demo", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["tokens_equal"] is True
    assert all(budget < found["model_bytes"] for tier, budget in demo.BUDGETS.items() if tier != "disk")
    last = list(found["runs"].values())[-1]
    for what in ("w", "cache"):
        assert min(last["placement"]["realised"][what]) > 5
    for run in found["runs"].values():
        assert all(run["held_peak_bytes"][tier] <= budget for tier, budget in demo.BUDGETS.items())
        assert all(moved["planned"] == moved["counted"] for moved in run["moved_bytes"].values())
    assert found["timed"]["predicted"]["total_s"] > 0.2  # long enough to mean something
    assert all(moved["planned"] > 0 for name, moved in found["timed"]["moved_bytes"].items() if name == "up_bytes")
    assert len({c["text"] for c in found["completions"]}) == len(demo.PROMPTS)


def test_demo_shows_text_timelines_and_equality_and_fails_where_tokens_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from flexplan_runtime.commands.run import run_ready

    def other_tokens(ready: object, listener: object) -> object:
        report = run_ready(ready, listener)  # type: ignore[arg-type]
        first = report.completions[0]
        first = replace(first, choices=(replace(first.choices[0], token_ids=(0,)),))
        return replace(report, completions=(first, *report.completions[1:]))

    monkeypatch.setattr(demo, "run_ready", other_tokens)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    shown = ("what the model goes on with", "predicted", "measured", "disk to host", "KV cache", "tokens equal: no")
    for words in shown:
        assert words in result.stdout
