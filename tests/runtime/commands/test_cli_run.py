"""``flexplan run`` and ``bench`` on the embedded model: what comes out, and what is refused when."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime.generate import placed
from flexplan_runtime.weights import open as open_module
from policies import THREE_TIERS
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from flexplan.cli import launch
from flexplan.cli.app import app
from flexplan.job import Completion
from flexplan.journal import answers, journal

POLICY = THREE_TIERS | {"cpu_cache_compute": True}
TEXTS = ["The with statement", "A class definition", "Python", "An exception is raised when", "If"]
NEW = 8


class Desk:
    """A directory with a policy, prompts and a place for the output."""

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.model = place, model
        self.policy, self.prompts, self.out = place / "policy.json", place / "in.txt", place / "out.jsonl"
        self.policy.write_text(json.dumps(POLICY))
        self.prompts.write_text("\n".join(TEXTS))

    def run(self, *args: str | Path, **options: Any) -> Result:
        given = [str(arg) for arg in args]
        if "--prompts" not in given and "--dummy" not in given:
            given += ["--prompts", str(self.prompts)]
        if "--model" not in given:
            given += ["--model", str(self.model)]
        base = ["run", str(self.policy), "-o", str(self.out), "--offload-dir", str(self.place / "off")]
        more = ["--device", "cpu", "--dtype", "float32", "--max-new-tokens", str(NEW)]
        return CliRunner().invoke(app, [*base, *more, *given], **options)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def refused(self, result: Result, exit_code: int, *words: str) -> None:
        """Exit code, one line what, one line fix, and nothing written."""
        assert result.exit_code == exit_code, result.output
        assert sum(line.startswith("error[FP") for line in result.stderr.splitlines()) == 1, result.stderr
        assert sum(line.startswith("fix: ") for line in result.stderr.splitlines()) == 1, result.stderr
        for word in words:
            assert word in result.stderr, (word, result.stderr)
        assert "Traceback" not in result.output
        assert {p.name for p in self.place.iterdir()} <= {"policy.json", "in.txt", "off", "model"}


@pytest.fixture
def desk(tmp_path: Path, tiny_opt: Path) -> Desk:
    return Desk(tmp_path, tiny_opt)


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading weights is an error."""

    def refuse(*args: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(placed, "load_weights", refuse)


def expected(directory: Path, texts: list[str]) -> list[list[int]]:
    """New tokens of every text as transformers gives them."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    found = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids
        found.append(model.generate(ids, max_new_tokens=NEW, do_sample=False)[0, ids.shape[1] :].tolist())
    return found


# -- what comes out ------------------------------------------------------------------------------------------------
def test_completions_are_those_of_transformers_in_input_order(desk: Desk) -> None:
    result = desk.run()
    assert result.exit_code == 0, result.output
    rows = desk.rows()
    assert [row["prompt"] for row in rows] == TEXTS
    assert [row["id"] for row in rows] == list(range(len(TEXTS)))
    assert [row["token_ids"] for row in rows] == expected(desk.model, TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(desk.model)
    for row in rows:
        assert row.keys() == {"id", "prompt", "text", "token_ids", "finish_reason", "num_prompt_tokens"}
        assert row["text"] == tokenizer.decode(row["token_ids"], skip_special_tokens=True)
        assert row["num_prompt_tokens"] == len(tokenizer(row["prompt"]).input_ids)
    assert "tokens/s" in result.stderr
    assert result.stdout == ""
    assert {p.name for p in desk.place.iterdir()} == {"policy.json", "in.txt", "off", "out.jsonl", "out.jsonl.job"}
    assert not list((desk.place / "off").iterdir())


def test_a_run_opens_and_checks_the_checkpoint_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = open_module.open_checkpoint
    monkeypatch.setattr(open_module, "open_checkpoint", lambda *args: opened.append(args[0]) or real(*args))
    assert desk.run().exit_code == 0
    assert opened == [desk.model]


def test_json_lines_keep_their_ids_and_take_token_ids(desk: Desk) -> None:
    ids = AutoTokenizer.from_pretrained(desk.model)(TEXTS[0]).input_ids
    lines = [
        {"id": "a", "prompt": TEXTS[0]},
        {"prompt_ids": ids},
        {"custom_id": "c", "method": "POST", "body": {"prompt": TEXTS[1]}},
    ]
    text = "\n".join(map(json.dumps, lines))
    assert desk.run("--prompts", "-", input=text.encode()).exit_code == 0
    rows = desk.rows()
    assert [row["id"] for row in rows[:2]] == ["a", 1] and rows[2]["custom_id"] == "c"
    assert rows[1]["prompt"] == ids
    assert rows[0]["token_ids"] == rows[1]["token_ids"]


def test_letters_of_a_prompt_come_back_as_they_are(desk: Desk) -> None:
    desk.prompts.write_text("Grüße, 你好\n", encoding="utf-8")
    assert desk.run().exit_code == 0
    assert "Grüße, 你好" in desk.out.read_text(encoding="utf-8")
    assert "Grüße, 你好".encode() in desk.run("-o", "-").stdout_bytes


def test_what_was_computed_outlives_a_directory_that_goes_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    place = desk.place / "short-lived"
    place.mkdir()
    whole = launch.completion_line

    def remove(completion: Completion) -> str:
        shutil.rmtree(place, ignore_errors=True)
        return whole(completion)

    monkeypatch.setattr(launch, "completion_line", remove)
    for module in (answers, journal):  # on a busy machine a job is synced between two blocks, and ends there
        monkeypatch.setattr(module, "SYNC_EVERY_S", 60.0)
    result = desk.run("-o", place / "out.jsonl")
    assert result.exit_code == 6 and "FP001" not in result.stderr
    (kept,) = (desk.place / "off").glob("flexplan-rescued-*.jsonl")
    assert str(kept) in result.stderr
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == TEXTS


def test_what_stands_in_an_output_is_replaced_when_asked(desk: Desk) -> None:
    desk.out.write_text("earlier\n")
    result = desk.run()
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert desk.out.read_text() == "earlier\n"
    result = desk.run("--overwrite")
    assert result.exit_code == 0 and "is replaced" in result.stderr
    assert len(desk.rows()) == len(TEXTS)


def test_output_can_be_standard_output(desk: Desk) -> None:
    result = desk.run("-o", "-")
    assert [json.loads(line)["prompt"] for line in result.stdout.splitlines()] == TEXTS


def test_a_row_ends_at_the_models_end_token_unless_told_otherwise(desk: Desk, tmp_path: Path) -> None:
    """The third token that comes anyway is declared the end."""
    model = tmp_path / "model"
    shutil.copytree(desk.model, model)
    third = expected(desk.model, TEXTS[:1])[0][2]
    for name in ("config.json", "generation_config.json"):
        config = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(config | {"eos_token_id": third}))
    desk.prompts.write_text(TEXTS[0])
    desk.run("--model", model)
    (row,) = desk.rows()
    assert (row["finish_reason"], row["token_ids"][-1], third in row["token_ids"][:-1]) == ("stop", third, False)
    desk.run("--model", model, "--ignore-eos", "--overwrite")
    (row,) = desk.rows()
    assert (row["finish_reason"], len(row["token_ids"])) == ("length", NEW)


def test_drawn_tokens_follow_the_seed(desk: Desk) -> None:
    drawn = []
    for seed in ("1", "1", "2"):
        desk.run("--do-sample", "--temperature", "2.0", "--top-k", "50", "--seed", seed, "--overwrite")
        drawn.append([row["token_ids"] for row in desk.rows()])
    assert drawn[0] == drawn[1] != drawn[2]


def test_dummy_weights_need_neither_files_nor_prompts(desk: Desk) -> None:
    result = desk.run("--dummy", "--model", "facebook/opt-125m", "--prompt-len", "5", "--max-new-tokens", "2")
    assert result.exit_code == 0, result.output
    rows = desk.rows()
    assert len(rows) == POLICY["gpu_batch_size"] * POLICY["num_gpu_batches"]
    assert len({tuple(row["prompt"]) for row in rows}) == len(rows)
    assert all(row["text"] is None and len(row["prompt"]) == 5 for row in rows)


@pytest.mark.parametrize("length", [10**18, 10**400], ids=["18 digits", "400 digits"])
def test_random_prompts_that_the_model_cannot_read_are_not_made(length: int, desk: Desk) -> None:
    result = desk.run("--dummy", "--model", "facebook/opt-125m", "--prompt-len", str(length), "--max-new-tokens", "2")
    desk.refused(result, 2, "--prompt-len", "2048")


def test_a_block_that_no_machine_runs_is_not_laid_out(desk: Desk) -> None:
    desk.policy.write_text('{"gpu_batch_size": 1, "num_gpu_batches": 200000}')
    desk.refused(desk.run("--dummy", "--model", "facebook/opt-125m"), 2, "200000 micro-batches")


def test_more_host_memory_than_there_is_is_a_warning(desk: Desk) -> None:
    result = desk.run("--cpu-mem", "100T")
    assert result.exit_code == 0
    assert "warning: --cpu-mem 100.00 TiB (109.95 TB)" in result.stderr


def test_a_plan_runs_within_its_budgets_and_on_its_model(desk: Desk) -> None:
    lens = ("--prompt-len", "16", "--gen-len", str(NEW), "--hardware", "cpu-host", "--gpu-mem", "8M", "--cpu-mem", "8M")
    solved = CliRunner().invoke(
        app, ["solve", "--model", str(desk.model), *lens, "--planner", "lp", "-o", str(desk.policy)]
    )
    assert solved.exit_code == 0, solved.output
    assert desk.run().exit_code == 0
    assert [row["token_ids"] for row in desk.rows()] == expected(desk.model, TEXTS)


# -- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("unloadable")
class TestBeforeWeightsAreLoaded:
    def test_a_prompt_longer_than_the_context(self, desk: Desk) -> None:
        desk.prompts.write_text("short\n" + "word " * 600)
        desk.refused(desk.run("--strict"), 2, "line 2", "512", "fix: shorten it")

    def test_token_ids_of_another_vocabulary(self, desk: Desk) -> None:
        given = b'{"prompt_ids": [1]}\n{"prompt_ids": [2048]}'
        desk.refused(desk.run("--strict", "--prompts", "-", input=given), 2, "line 2", "2048")

    def test_too_small_a_budget(self, desk: Desk) -> None:
        desk.refused(desk.run("--gpu-mem", "1M"), 3, "gpu", "1.00 MiB", "gpu_batch_size")
        desk.refused(desk.run("--cpu-mem", "64K"), 3, "cpu", "64.00 KiB")

    def test_a_plan_for_another_model(self, desk: Desk) -> None:
        args = ["--model", "facebook/opt-125m", "--prompt-len", "8", "--gen-len", "2", "--planner", "manual"]
        assert CliRunner().invoke(app, ["solve", *args, "-o", str(desk.policy)]).exit_code == 0
        desk.refused(desk.run(), 2, "facebook/opt-125m", "tiny-opt")

    def test_fields_that_cannot_go_together(self, desk: Desk) -> None:
        desk.policy.write_text(
            json.dumps(POLICY | {"attn_sparsity": 0.5, "cache_gpu_percent": 0, "cache_cpu_percent": 0})
        )
        desk.refused(desk.run(), 2, "attn_sparsity", "cache_disk_percent")

    def test_a_device_that_is_none(self, desk: Desk) -> None:
        desk.refused(desk.run("--device", "gpu7"), 2, "gpu7", "use --device")

    def test_a_dtype_that_is_none(self, desk: Desk) -> None:
        desk.refused(desk.run("--dtype", "float8"), 2, "float8", "bfloat16")

    def test_a_temperature_of_nothing(self, desk: Desk) -> None:
        desk.refused(desk.run("--do-sample", "--temperature", "-1"), 2, "temperature")

    def test_a_model_directory_that_is_not_there(self, desk: Desk) -> None:
        desk.refused(desk.run("--model", desk.place / "nowhere"), 4, "nowhere")

    def test_a_dummy_of_a_name_nobody_knows(self, desk: Desk) -> None:
        desk.refused(desk.run("--dummy", "--model", "facebook/opt-31b"), 4, "opt-31b", "facebook/opt-30b")

    def test_text_for_a_dummy_without_tokenizer(self, desk: Desk) -> None:
        desk.refused(desk.run("--dummy", "--model", "opt-125m", "--prompts", desk.prompts), 2, "line 1", "prompt_ids")

    def test_an_output_that_is_an_input(self, desk: Desk) -> None:
        for given in (desk.prompts, desk.policy):
            before = given.read_bytes()
            desk.refused(desk.run("-o", given, "--overwrite"), 2, "also an input")
            assert given.read_bytes() == before

    def test_an_output_that_cannot_be_written_comes_before_the_model(self, desk: Desk) -> None:
        desk.refused(
            desk.run("-o", desk.place / "no" / "out", "--model", desk.place / "nowhere"), 2, "cannot be written"
        )

    @pytest.mark.parametrize(
        "damage", ["truncated", "missing tensor", "wrong shape", "pickle", "escape", "no tokenizer"]
    )
    def test_bad_model_files(self, desk: Desk, damage: str) -> None:
        model = desk.place / "model"
        shutil.copytree(desk.model, model)
        word = _damage(model, damage)
        desk.refused(desk.run("--model", model), 4, word)


def _damage(model: Path, damage: str) -> str:
    """Break a model directory; a word that the error must say."""
    weights = model / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage in ("missing tensor", "wrong shape"):
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        name = next(n for n in tensors if n.endswith("fc1.weight"))
        changed = tensors.pop(name)
        if damage == "wrong shape":
            tensors[name] = changed.t().contiguous()
        save_file(tensors, weights)
        return "fc1.weight"
    elif damage == "pickle":
        weights.rename(model / "pytorch_model.bin")
        return "safetensors"
    elif damage == "escape":
        weights.unlink()
        index = {"weight_map": {"model.decoder.embed_tokens.weight": "../in.txt"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        return ".."
    else:
        (model / "tokenizer.json").unlink()
        (model / "tokenizer_config.json").unlink()
        return "tokenizer"
    return weights.name


def test_an_error_while_running_leaves_no_output(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from flexplan_runtime.memory import ScratchFile

    from flexplan.errors import StorageError

    def fail(*args: object) -> None:
        raise StorageError("FP602", "disk pwritev of 4096 bytes at 0 failed: No space left", fix="free some space")

    monkeypatch.setattr(ScratchFile, "write", fail)
    desk.refused(desk.run(), 6, "No space left")
    assert not list((desk.place / "off").iterdir())


# -- bench -----------------------------------------------------------------------------------------------------------
def test_bench_lays_predicted_beside_measured(desk: Desk) -> None:
    base = ["bench", str(desk.policy), "--model", str(desk.model), "--hardware", "cpu-host", "--device", "cpu"]
    more = [
        "--offload-dir",
        str(desk.place / "off"),
        "--prompt-len",
        "9",
        "--max-new-tokens",
        "5",
        "--dtype",
        "float32",
    ]
    trace = desk.place / "trace.json"
    result = CliRunner().invoke(app, [*base, *more, "--json", "--trace", str(trace)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    for key in ("predicted", "measured"):
        assert found[key]["total_s"] == pytest.approx(found[key]["prefill_s"] + found[key]["decode_s"])
        assert found[key]["lane_busy_s"].keys() == found["predicted"]["lane_busy_s"].keys()
    assert found["held_peak_bytes"] == found["planned_peak_bytes"]
    for name, moved in found["moved_bytes"].items():
        assert moved["counted"] == moved["planned"] > 0, name
    for what in ("w", "cache"):
        for asked, realised in zip(*(found["placement"][k][what] for k in ("asked", "realised")), strict=True):
            assert abs(asked - realised) < 1.5
    events = json.loads(trace.read_text())["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["predicted", "measured"]
    assert "Busy by lane" in CliRunner().invoke(app, [*base, *more]).stdout


def test_a_bench_of_several_blocks_counts_all_of_them(desk: Desk) -> None:
    def bench(num_prompts: int) -> dict[str, Any]:
        base = ["bench", str(desk.policy), "--model", str(desk.model), "--hardware", "cpu-host", "--device", "cpu"]
        lengths = desk.place / "lengths.csv"
        lengths.write_text("prompt_tokens,new_tokens\n" + num_prompts * "9,5\n")
        more = ["--lengths", str(lengths), "--dtype", "float32", "--offload-dir", str(desk.place / "off"), "--json"]
        done = CliRunner().invoke(app, [*base, *more])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    rows = POLICY["gpu_batch_size"] * POLICY["num_gpu_batches"]
    one, three = bench(rows), bench(2 * rows + 1)
    assert 2 * one["predicted"]["total_s"] < three["predicted"]["total_s"] <= 3 * one["predicted"]["total_s"]
    for key in ("predicted", "measured"):
        tokens = three[key]["tokens_per_s"] * three[key]["total_s"]
        assert tokens == pytest.approx(5 * (2 * rows + 1))
        assert three[key]["total_s"] == pytest.approx(three[key]["prefill_s"] + three[key]["decode_s"])
    for name, moved in three["moved_bytes"].items():
        assert moved["counted"] == moved["planned"] > 2 * one["moved_bytes"][name]["planned"], name


def test_the_program_itself_runs_a_job(desk: Desk) -> None:
    command = [Path(sys.executable).parent / "flexplan", "run", desk.policy, "--model", desk.model, "--prompts", "-"]
    more = ["-o", desk.out, "--offload-dir", desk.place / "off", "--device", "cpu", "--max-new-tokens", "3"]
    done = subprocess.run(
        [*map(str, command + more)], input=b"\xef\xbb\xbfPython\r\n", capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert desk.rows()[0]["prompt"] == "Python"
    assert b"\x1b" not in done.stderr


def test_a_config_json_stands_for_its_directory_with_its_tokenizer(desk: Desk) -> None:
    assert desk.run().exit_code == 0
    by_directory = desk.rows()
    assert desk.run("--model", desk.model / "config.json", "--overwrite").exit_code == 0
    assert desk.rows() == by_directory


def test_a_locked_model_runs_only_as_it_was_locked(tiny_opt: Path, tmp_path: Path) -> None:
    """``--locked`` sums everything before it allocates; without a lock, or of random weights, it is refused."""
    (tmp_path / "desk").mkdir()
    desk = Desk(tmp_path / "desk", tmp_path / "model")
    shutil.copytree(tiny_opt, desk.model)
    desk.refused(desk.run("--locked"), 4, "FP517", "flexplan lock")
    desk.refused(desk.run("--locked", "--dummy"), 2, "FP181")
    assert CliRunner().invoke(app, ["lock", str(desk.model)]).exit_code == 0
    config = desk.model / "config.json"
    config.write_text(config.read_text().replace(" ", "\t", 1))
    desk.refused(desk.run("--locked"), 4, "config.json: its SHA-256")
    assert desk.run("--max-new-tokens", "1").exit_code == 0  # names and sizes are those of the lock
