"""The command line, as far as it goes without a runtime: answers, errors and exit codes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flexplan.cli.app import app
from flexplan.cli.progress import Progress

SMALL = ("--model", "facebook/opt-125m", "--prompt-len", "16", "--gen-len", "4")
MANUAL = ("--planner", "manual", "--gpu-batch-size", "2")


def call(*args: str | Path, **options: Any) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], **options)


def refused(result: Result, exit_code: int, *words: str) -> None:
    """The right exit code, one line ``error[FPnnn]: ...`` with these words, and one line ``fix: ...``."""
    assert result.exit_code == exit_code, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error[FP")]
    fixes = [line for line in result.stderr.splitlines() if line.startswith("fix: ")]
    assert len(errors) == len(fixes) == 1, result.stderr
    for word in words:
        assert word in result.stderr, (word, result.stderr)
    assert "Traceback" not in result.output


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    assert call("solve", *SMALL, *MANUAL, "-o", path).exit_code == 0
    return path


# -- solve -------------------------------------------------------------------------------------------------------
def test_solve_prints_a_plan_for_people() -> None:
    result = call("solve", *SMALL, *MANUAL)
    assert result.exit_code == 0
    for words in ("a guess", "weights", "realised", "GiB", "tokens per second", "busiest"):
        assert words in result.stdout


def test_solve_json_is_one_object_with_the_promised_keys() -> None:
    result = call("solve", *SMALL, *MANUAL, "--json")
    found = json.loads(result.stdout)
    assert {"policy", "placement", "prediction", "problem", "planner", "schedule", "version"} <= found.keys()
    assert {"tokens_per_s", "prefill_s", "decode_s", "peak_bytes", "busiest_lane"} <= found["prediction"].keys()
    assert {"asked", "realised"} == found["placement"].keys()


def test_percents_and_switches_become_the_policy() -> None:
    switches = ("--no-overlap", "--no-sep-layer", "--no-pin-weight", "--cpu-cache-compute", "--num-gpu-batches", "3")
    result = call("solve", *SMALL, "--percent", "10", "20", "30", "40", "50", "25", *switches, "--json")
    policy = json.loads(result.stdout)["policy"]
    percents = [policy[f"{what}_{tier}_percent"] for what in ("w", "cache", "act") for tier in ("gpu", "cpu")]
    assert percents == [10, 20, 30, 40, 50, 25]
    assert policy["num_gpu_batches"] == 3
    assert [policy[name] for name in ("overlap", "sep_layer", "pin_weight", "cpu_cache_compute")] == [0, 0, 0, 1]


def test_output_is_what_json_prints(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    printed = call("solve", *SMALL, *MANUAL, "--json", "-o", path).stdout
    assert json.loads(path.read_text()) == json.loads(printed)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--gpu-mem", "16X"], ["16X", "16GB"]),
        (["--gpu-mem", "-1G"], ["-1G"]),
        (["--model", "facebook/opt-31b"], ["opt-31b", "facebook/opt-30b"]),
        (["--hardware", "h100-pcie"], ["h100-pcie5"]),
        (["--planner", "serch"], ["search"]),
        (["--schedule", "zigzak", "--planner", "manual"], ["zigzag"]),
        (["--prompt-len", "0"], ["prompt_len", "0"]),
        (["--num-prompts", "0"], ["num_prompts", "0"]),
        (["--prompt-len", "2040", "--gen-len", "32"], ["2072", "2048"]),
        (["--percent", "80", "80", "0", "100", "0", "100"], ["w_gpu_percent 80", "160"]),
        (["--percent", "-5", "80", "0", "100", "0", "100"], ["w_gpu_percent", "-5"]),
        (["--percent", "nan", "80", "0", "100", "0", "100"], ["w_gpu_percent", "nan"]),
        (["--percent", "0", "0", "0", "inf", "0", "100"], ["cache_cpu_percent", "inf"]),
        (["--gpu-batch-size", "0"], ["gpu_batch_size", "0"]),
        (["--planner", "search", "--gpu-batch-size", "4"], ["gpu_batch_size", "manual"]),
    ],
)
def test_a_bad_question_is_refused_with_its_words(args: list[str], words: list[str]) -> None:
    refused(call("solve", *args), 2, *words)


@pytest.mark.parametrize("args", [["--nonsense"], ["--gen-len", "many"], ["--percent", "1", "2"], ["a", "b"]])
def test_a_command_line_that_does_not_parse_is_exit_2(args: list[str]) -> None:
    result = call("solve", *args)
    assert result.exit_code == 2
    assert "Error" in result.stderr


def test_too_small_a_budget_is_an_answer_with_numbers() -> None:
    result = call("solve", *SMALL, *MANUAL, "--hardware", "cpu-host", "--gpu-mem", "1M", "--json")
    refused(result, 3, "gpu", "1.00 MiB")
    error = json.loads(result.stdout)["error"]
    assert error["binding"] == ["gpu"]
    assert error["smallest_budget_bytes"]["gpu"] > 1 << 20


def test_an_unwritable_output_is_found_before_planning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexplan.plan.solve", None)
    refused(call("solve", "-o", tmp_path), 2, "directory")
    refused(call("solve", "-o", tmp_path / "missing" / "plan.json"), 2, "cannot be written")


def test_output_to_a_device_does_not_replace_it() -> None:
    assert call("solve", *SMALL, *MANUAL, "-o", "/dev/null").exit_code == 0
    assert Path("/dev/null").is_char_device()


def test_a_bug_is_exit_1_and_one_line_unless_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("boom\nsecond line")

    monkeypatch.setattr("flexplan.plan.solve", broken)
    refused(call("solve", *SMALL), 1, "RuntimeError: boom", "--debug")
    assert "Traceback" in call("--debug", "solve", *SMALL).stderr
    assert "Traceback" in call("solve", *SMALL, "--debug").stderr


def test_objectives_come_as_words_or_as_bounds() -> None:
    late = json.loads(call("solve", *SMALL, *MANUAL, "--max-latency", "60", "--json").stdout)
    assert late == json.loads(call("solve", *SMALL, *MANUAL, "--objective", "latency:60", "--json").stdout)
    assert late["problem"]["objective"] == {"max_latency_s": 60.0, "min_tokens_per_s": None}


def test_what_was_asked_is_said(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("[1, 2, 3]\n[4]\n")
    text = call("solve", *SMALL[:2], *MANUAL, "--prompts", tmp_path / "in.jsonl", "--max-latency", "60").stdout
    assert "2 prompts of 1 to 3 tokens" in text
    assert "asked for: the most tokens per second, a block within 60 s" in text


def test_a_policy_that_is_too_late_is_exit_3() -> None:
    refused(call("solve", *SMALL, *MANUAL, "--max-latency", "1e-9"), 3, "--max-latency allows 1e-09")


def test_a_problem_is_planned_for_the_lengths_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("[1, 2, 3]\n[4]\n[5, 6]\n")
    found = json.loads(call("solve", *SMALL[:2], *MANUAL, "--prompts", tmp_path / "in.jsonl", "--json").stdout)
    work = found["problem"]["workload"]
    assert (work["prompt_lens"], work["prompt_len"], work["num_prompts"]) == ([3, 1, 2], 3, 3)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--objective", "speed"], ["speed", "throughput"]),
        (["--max-latency", "0"], ["--max-latency 0"]),
        (["--objective", "latency:6", "--max-latency", "7"], ["two things"]),
        (["--allow", "4bit"], ["4bit"]),
        (["--prompts", "none.jsonl"], ["none.jsonl"]),
        (["--prompts", "none.jsonl", "--prompt-len", "7"], ["--prompt-len"]),
    ],
)
def test_a_bad_goal_or_workload_is_refused_with_its_words(args: list[str], words: list[str]) -> None:
    refused(call("solve", "--model", "facebook/opt-125m", *args), 2, *words)


# -- the problem file --------------------------------------------------------------------------------------------
def test_flags_override_the_problem_file(tmp_path: Path) -> None:
    asked = tmp_path / "problem.toml"
    asked.write_text(
        'model = "facebook/opt-125m"\ngpu_mem = "2G"\nprompt_len = 16\ngen_len = 4\nplanner = "manual"\n'
        "[policy]\ngpu_batch_size = 2\nw_gpu_percent = 50\nw_cpu_percent = 50\n"
    )
    found = json.loads(call("solve", asked, "--gen-len", "3", "--gpu-batch-size", "5", "--json").stdout)
    assert found["problem"]["workload"]["gen_len"] == 3
    assert found["problem"]["workload"]["prompt_len"] == 16
    assert found["problem"]["hardware"]["gpu_bytes"] == 2 << 30
    assert (found["policy"]["gpu_batch_size"], found["policy"]["w_cpu_percent"]) == (5, 50)


def test_paths_in_a_problem_file_are_relative_to_it(tmp_path: Path) -> None:
    from flexplan.hardware import hardware_from

    hardware_from("t4-gcp").model_copy(update={"name": "mine"}).save(tmp_path / "mine.json")
    (tmp_path / "problem.toml").write_text('model = "opt-125m"\nhardware = "mine.json"\nprompt_len = 8\ngen_len = 2\n')
    found = json.loads(call("solve", tmp_path / "problem.toml", *MANUAL, "--json").stdout)
    assert found["problem"]["hardware"]["name"] == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('modell = "x"', ["modell", "did you mean model?"]),
        ("prompt_len = '16'", ["prompt_len", "'16'"]),
        ("prompt_len = true", ["prompt_len", "True"]),
        ("prompt_len = 1\nprompt_len = 2", ["TOML"]),
        ("[policy]\nw_gpu_percnt = 5", ["w_gpu_percnt", "did you mean w_gpu_percent?"]),
        ("[policy]\nw_gpu_percent = nan", ["w_gpu_percent"]),
        ('planner = "search"\n[policy]\nw_gpu_percent = 5', ["w_gpu_percent", "manual"]),
    ],
)
def test_a_bad_problem_file_is_refused_with_its_words(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "problem.toml").write_text(text)
    refused(call("solve", tmp_path / "problem.toml"), 2, *words)


def test_a_missing_problem_file_is_exit_2(tmp_path: Path) -> None:
    refused(call("solve", tmp_path / "problem.toml"), 2, "problem.toml")


# -- policy files ------------------------------------------------------------------------------------------------
BAD_POLICIES = {
    "no sum": ('{"w_gpu_percent": 80, "w_cpu_percent": 80}', "160"),
    "negative": ('{"w_gpu_percent": -1}', "w_gpu_percent"),
    "not a number": ('{"w_gpu_percent": NaN}', "NaN"),
    "infinite": ('{"w_gpu_percent": 1e999}', "w_gpu_percent"),
    "text": ('{"w_gpu_percent": "50"}', "w_gpu_percent: '50'"),
    "boolean": ('{"w_gpu_percent": true}', "w_gpu_percent: True"),
    "unknown key": ('{"w_gpu_percentage": 50}', "did you mean w_gpu_percent?"),
    "key twice": ('{"w_gpu_percent": 50, "w_gpu_percent": 60}', "w_gpu_percent"),
    "other version": ('{"version": 3, "w_gpu_percent": 50}', "3"),
    "sparsity 0": ('{"attn_sparsity": 0}', "1.0"),
    "not an object": ("[1, 2]", "list"),
    "not JSON": ("w_gpu_percent: 50", "line 1"),
    "truncated": ('{"w_gpu_percent": 5', "read"),
    "deep": ("[" * 100_000, "deep"),
    "huge": (" " * (2 << 20), "1048576"),
}


@pytest.mark.parametrize("case", BAD_POLICIES)
@pytest.mark.parametrize("command", ["simulate", "run"])
def test_a_bad_policy_file_is_refused_before_anything_runs(tmp_path: Path, case: str, command: str) -> None:
    text, word = BAD_POLICIES[case]
    policy, out = tmp_path / "policy.json", tmp_path / "out.jsonl"
    policy.write_text(text)
    more = ("--model", "facebook/opt-125m", "--prompts", tmp_path / "none", "-o", out) if command == "run" else ()
    refused(call(command, policy, *more), 2, word)
    assert not out.exists()


def test_a_missing_or_binary_policy_file_is_exit_2(tmp_path: Path) -> None:
    refused(call("simulate", tmp_path / "policy.json"), 2, "policy.json")
    (tmp_path / "policy.json").write_bytes(b"\xff\xfe\x00")
    refused(call("simulate", tmp_path / "policy.json"), 2, "policy.json")


def test_a_plan_is_needed_where_fields_are_not_enough(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text('{"w_gpu_percent": 100}')
    refused(call("simulate", tmp_path / "policy.json"), 2, "solve")
    refused(call("explain", tmp_path / "policy.json"), 2, "solve")


def test_edited_fields_win_with_a_warning(plan_file: Path) -> None:
    plan = json.loads(plan_file.read_text())
    plan["policy"] |= {"w_gpu_percent": 40, "w_cpu_percent": 60}
    plan_file.write_text(json.dumps(plan))
    result = call("simulate", plan_file)
    assert result.exit_code == 0
    assert "warning: the policy was edited" in result.stderr
    assert "h2d_weights" in result.stdout


# -- simulate, explain, planners -----------------------------------------------------------------------------------
def test_simulate_writes_a_trace_that_a_viewer_reads(plan_file: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    assert call("simulate", plan_file, "--trace", trace).exit_code == 0
    events = json.loads(trace.read_text())["traceEvents"]
    assert any(event["ph"] == "X" and event["name"].startswith("compute@gpu") for event in events)


def test_simulate_json_has_the_times_of_the_phases(plan_file: Path) -> None:
    found = json.loads(call("simulate", plan_file, "--json").stdout)
    assert found["total_s"] == pytest.approx(found["prefill_s"] + found["decode_s"])
    assert found["lane_busy_s"]["gpu"] > 0


def test_explain_names_the_bottleneck_and_the_value_of_more(plan_file: Path) -> None:
    found = json.loads(call("explain", plan_file, "--json").stdout)
    assert found["busiest_lane"]["decode"] == "gpu"
    brings = {gain["resource"]: gain["percent"] for gain in found["more_brings"]}
    assert brings["disk speed"] == pytest.approx(0, abs=1e-6)
    assert brings["GPU speed"] > 0.5
    assert {baseline["name"] for baseline in found["baselines"]} >= {"all resident", "all on the host"}
    text = call("explain", plan_file).stdout
    for words in ("busiest lane", "of its bound", "25 % faster GPU", "budget", "Baselines"):
        assert words in text


def test_planners_lists_what_is_installed_and_from_where() -> None:
    listed = {(row["group"], row["name"]): row["origin"] for row in json.loads(call("planners", "--json").stdout)}
    for key in (("planners", "manual"), ("planners", "search"), ("schedules", "zigzag"), ("runtimes", "torch")):
        assert listed[key].startswith("flexplan ")
    assert "ManualPlanner" in call("planners").stdout


def test_help_states_the_one_rule_of_sizes() -> None:
    assert "2**30" in call("solve", "--help").stdout


# -- run, before there is a runtime ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (b'{"prompt": "good"}\n{"prompt": 7}\n', ["line 2", "a number", "allowed"]),
        (b'{"prompt": "good"}\nplain\n', ["line 2", "not JSON"]),
        (b"good\n\xff\n", ["line 2", "UTF-8"]),
        (b'{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}\n', ["ids", "1"]),
    ],
)
def test_a_bad_prompt_names_its_line(plan_file: Path, tmp_path: Path, given: bytes, words: list[str]) -> None:
    prompts, out = tmp_path / "in", tmp_path / "out.jsonl"
    prompts.write_bytes(given)
    refused(call("run", plan_file, "--strict", "--prompts", prompts, "-o", out), 2, *words)
    assert not out.exists()


def test_policy_comes_before_prompts_and_prompts_before_output(plan_file: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "in.txt"
    refused(call("run", tmp_path / "none.json", "--prompts", prompts, "-o", tmp_path), 2, "none.json")
    refused(call("run", plan_file, "--prompts", prompts, "-o", tmp_path), 2, "in.txt")
    prompts.write_text("x")
    refused(call("run", plan_file, "--prompts", prompts, "-o", tmp_path, "--model", "no/model"), 2, "directory")


def test_no_prompts_are_an_empty_output(plan_file: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n\r\n")
    result = call("run", plan_file, "--prompts", tmp_path / "in.txt", "-o", tmp_path / "out.jsonl")
    assert result.exit_code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    assert call("run", plan_file, "--prompts", "-", "-o", "-", input=b"").stdout == ""


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["--prompts"]),
        (["--dummy", "--max-new-tokens", "0"], ["--max-new-tokens 0"]),
        (["--dummy", "--prompt-len", "0"], ["--prompt-len 0"]),
        (["--dummy", "--temperature", "0.5"], ["--temperature", "--do-sample"]),
        (["--dummy", "--cpu-mem", "lots"], ["lots"]),
    ],
)
def test_a_bad_command_line_of_run_is_exit_2(
    plan_file: Path, tmp_path: Path, args: list[str], words: list[str]
) -> None:
    refused(call("run", plan_file, "-o", tmp_path / "out.jsonl", *args), 2, *words)


def test_bare_fields_need_a_model(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text("{}")
    refused(call("run", tmp_path / "policy.json", "-o", tmp_path / "out.jsonl", "--dummy"), 2, "--model")


def test_without_torch_it_says_how_to_get_it(plan_file: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from flexplan.cli.app import main; main()"
    command = [sys.executable, "-c", code, "run", str(plan_file), "--dummy", "-o", str(tmp_path / "out.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install '.[runtime]'" in done.stderr


def test_progress_off_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr("flexplan.cli.progress.time.monotonic", lambda: float(next(clock)))
    with Progress() as progress:
        progress.stage("generating")
        for done in (10, 20, 30):  # at 2, 4 and 6 seconds
            progress.tokens(done, 1200)
    assert capsys.readouterr().err.splitlines() == ["generating", "30 of 1,200 tokens, 5.0 tokens/s, 234 s left"]


# -- the program -------------------------------------------------------------------------------------------------
def test_solve_alone_is_offline_quick_and_without_tensor_libraries(tmp_path: Path) -> None:
    """Two budgets are enough; seconds of the process, as other tests share the cores."""
    code = (
        "import sys, flexplan.cli.app\n"
        "try: flexplan.cli.app.main()\n"
        "finally: print(sorted({'torch', 'transformers', 'safetensors'} & sys.modules.keys()), file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", code, "solve", "--gpu-mem", "16G", "--cpu-mem", "200G", "-o", "policy.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "[]" in done.stderr
    for words in ("facebook/opt-30b", "tokens per second", "16.00 GiB (17.18 GB)"):
        assert words in done.stdout
    assert "\x1b" not in done.stdout
    assert json.loads((tmp_path / "policy.json").read_text())["planner"] == "search"
    # two to three alone on a machine; the seconds of a shared core are longer
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 7


def test_examples_of_planning_run(tmp_path: Path) -> None:
    examples = Path(__file__).parents[3] / "examples"
    for name in ("quickstart.py", "embed_the_planner.py"):
        subprocess.run([sys.executable, str(examples / name)], check=True, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "policy.json").stat().st_size and (tmp_path / "trace.json").stat().st_size
    assert call("solve", examples / "problem.toml", "--num-prompts", "24").exit_code == 0
