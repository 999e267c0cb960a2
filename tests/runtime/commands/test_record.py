"""A run that is recorded, and the page made of it: measured beside predicted, or refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flexplan.cli.app import app
from flexplan.graph import Timeline
from flexplan.job import read_recording
from flexplan.plan import Plan, tokens_to_keep

NEW = 9
BUDGETS = ("--gpu-mem", "2M", "--cpu-mem", "8M", "--disk-mem", "64M", "--hardware", "cpu-host")


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(result: Result, code: str, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert f"error[{code}]" in result.stderr
    assert all(word in result.stderr for word in words), result.stderr


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, tiny_opt: Path) -> Path:
    """A directory with a plan, a recorded run of two blocks and a recorded bench."""
    path = tmp_path_factory.mktemp("record")
    by_hand = ("--planner", "manual", "--gpu-batch-size", "2", "--percent", "20", "80", "100", "0", "100", "0")
    asked = ("--model", tiny_opt, "--prompt-len", "8", "--gen-len", str(NEW), "--num-prompts", "3")
    assert call("solve", *asked, *BUDGETS, *by_hand, "-o", path / "plan.json").exit_code == 0
    (path / "in.txt").write_text("Python\nThe with statement\nA class definition\n")
    where = ("--model", tiny_opt, "--device", "cpu", "--offload-dir", path / "off", "--record")
    run = call(
        "run",
        path / "plan.json",
        "--prompts",
        path / "in.txt",
        "-o",
        path / "out",
        "--ignore-eos",
        *where,
        path / "run",
    )
    assert run.exit_code == 0, run.output
    assert call("bench", path / "plan.json", *where, path / "bench").exit_code == 0
    return path


@pytest.mark.parametrize(("name", "num_blocks", "num_tokens"), [("run", 2, 3 * NEW), ("bench", 1, 2 * NEW)])
def test_a_recording_holds_a_few_passes_and_the_sums_of_all(
    desk: Path, name: str, num_blocks: int, num_tokens: int
) -> None:
    found = read_recording(desk / name)
    assert (found.num_blocks, found.num_tokens) == (num_blocks, num_tokens)
    assert {span.i for span in found.spans} == tokens_to_keep(found.plan) < set(range(NEW))
    kept = Timeline()
    for span in found.spans:
        kept.add(span)
    for lane, busy_s in kept.lane_busy_s.items():
        assert busy_s < found.lane_busy_s[lane]
    assert found.prefill_s > 0 and found.decode_s > 0
    assert [times for times, *_ in found.memory] == sorted(times for times, *_ in found.memory)
    assert found.memory[-1][1:] == tuple(found.plan.prediction.peak_bytes.values())


@pytest.mark.parametrize("name", ["run", "bench"])
def test_a_page_lays_what_was_measured_beside_what_is_predicted(desk: Path, name: str) -> None:
    page = desk / f"{name}.html"
    assert call("report", desk / "plan.json", desk / name, "-o", page).exit_code == 0
    text = page.read_text()
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text)[1])  # type: ignore[index]
    for one in charts["passes"]:
        predicted, measured = (one["views"][view] for view in ("predicted", "measured"))
        mine = [
            sorted(s[2:5] for s in view["spans"] if view["kinds"][s[1]] == "compute" and s[2] == one["i"])
            for view in (predicted, measured)
        ]
        assert mine[0] == mine[1] != []  # the very same tasks
        assert 0 < len(measured["late"]) <= 5
        for lane in range(len(measured["lanes"])):
            busy = sum(min(measured["took_s"], s[5] + s[6]) - max(0, s[5]) for s in measured["spans"] if s[0] == lane)
            idle = sum(gap[3] for gap in measured["gaps"] if gap[0] == lane)
            assert busy + idle <= measured["took_s"] * 1.001
    assert "Measured on" in text and f"{read_recording(desk / name).num_tokens} tokens" in text


@pytest.mark.parametrize("name", ["run", "bench"])
def test_rows_and_cache_in_use_and_the_bound_stand_on_the_page_as_in_the_record(desk: Path, name: str) -> None:
    found = read_recording(desk / name)
    assert found.usage is not None and found.bound_s is not None
    assert 0 < found.usage.seats_percent <= 100 and 0 < found.usage.cache_percent <= 100
    assert [at[1] for at in found.standing] == sorted(at[1] for at in found.standing)
    assert found.standing[-1][1] == found.num_tokens
    assert all(live <= found.seats == 2 and held <= found.reserved for _, _, live, held in found.standing)
    assert call("report", desk / "plan.json", desk / name, "-o", desk / "x.html").exit_code == 0
    text = (desk / "x.html").read_text()
    percent = 100 * found.bound_s / (found.prefill_s + found.decode_s)
    assert f"{percent:.0f} % of the job bound" in text and f"{found.usage.seats_percent:.0f} % of 2 rows were" in text


@pytest.mark.filterwarnings("ignore:the policy was edited")
@pytest.mark.parametrize("most", [None, 40], ids=["ends known", "ends that nobody knows"])
def test_a_rolling_job_is_recorded_pass_by_pass(most: int | None, desk: Path, tiny_opt: Path) -> None:
    lengths, plan, record = desk / "lengths.csv", desk / "rolling.json", desk / "rolling"
    lens = [(4 + n % 3, 2 + 5 * (n % 4)) for n in range(12)]
    lengths.write_text("prompt_tokens,new_tokens\n" + "".join(f"{a},{b}\n" for a, b in lens))
    if most is not None:
        rows = "".join(f"{a},{b},{most}\n" for a, b in lens)
        lengths.write_text("prompt_tokens,new_tokens,max_tokens\n" + rows)
    by_hand = ("--planner", "manual", "--gpu-batch-size", "2", "--percent", "20", "80", "0", "100", "100", "0")
    asked = ("--model", tiny_opt, "--lengths", lengths, "--schedule", "rolling", "--cpu-cache-compute")
    solved = call("solve", *asked, *BUDGETS, *by_hand, "-o", plan)
    assert solved.exit_code == 0, solved.output
    if most is not None:
        given = json.loads(plan.read_text())
        assert given["problem"]["workload"]["gen_len"] == most and given["problem"]["workload"]["expected_lens"]
        plan.write_text(json.dumps(given | {"policy": given["policy"] | {"room_percent": 40.0}}))
    where = ("--model", tiny_opt, "--device", "cpu", "--offload-dir", desk / "off", "--record", record)
    ran = call("bench", plan, "--lengths", lengths, *where, "--json")
    assert ran.exit_code == 0, ran.output
    said, found = json.loads(ran.stdout)["job"], read_recording(record)
    assert found.usage is not None and said["usage"]["seats_percent"] == found.usage.seats_percent
    assert said["of_bound_percent"] == pytest.approx(100 * said["bound_s"] / found.decode_s)
    assert found.prefill_s == 0 and found.num_tokens == sum(new for _, new in lens)
    assert max(live for _, _, live, _ in found.standing) == found.seats
    assert call("report", plan, record, "-o", desk / "rolling.html").exit_code == 0
    text = (desk / "rolling.html").read_text()
    assert "recorded whole" not in text  # some passes were
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text)[1])  # type: ignore[index]
    assert charts["standing"]["passes"] and all("measured" in one["views"] for one in charts["passes"])


def altered(desk: Path, to: Path, **changes: Any) -> Path:
    to.write_text(json.dumps(json.loads((desk / "run").read_text()) | changes))
    return to


def test_what_is_no_recording_of_this_plan_is_refused_by_name(desk: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "report.html", desk / "plan.json"
    refused(call("report", plan, tmp_path / "absent", "-o", out), "FP187", "absent")
    refused(call("report", plan, altered(desk, tmp_path / "a", prefill_s=-1), "-o", out), "FP182", "prefill_s")
    refused(call("report", plan, altered(desk, tmp_path / "b", more=1), "-o", out), "FP182", "more")
    assert call("solve", "--model", "opt-125m", "--planner", "manual", "-o", tmp_path / "other.json").exit_code == 0
    refused(call("report", tmp_path / "other.json", desk / "run", "-o", out), "FP183", "num_layers")
    assert not out.exists()


def test_a_recording_in_the_place_of_the_answers_is_refused_before_anything_runs(
    desk: Path, tmp_path: Path, tiny_opt: Path
) -> None:
    asked = ("--dummy", "--model", tiny_opt, "-o", tmp_path / "out", "--record")
    (tmp_path / "x").mkdir()
    for name in ("out", "out.job", "out.errors"):
        refused(call("run", desk / "plan.json", *asked, tmp_path / "x" / ".." / name), "FP184", "out")


def test_a_plan_that_was_recorded_is_read_back(desk: Path) -> None:
    found = read_recording(desk / "bench").plan
    assert found.policy == Plan.load(desk / "plan.json").policy
    assert len(found.problem.workload.prompt_lens) == 2
