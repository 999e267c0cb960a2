"""Whatever stands in a file or on the command line: an answer, or an error of ours that says what is wrong, at once.

Seeded; FLEXPLAN_FUZZ is the number of cases of each test.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flexplan import Plan, Policy, Problem
from flexplan.cli.app import app
from flexplan.model import ModelShape
from flexplan.testing import policy_with

CASES = int(os.environ.get("FLEXPLAN_FUZZ", "40"))
SLOWEST_S = 1.0  # of an error, in seconds of the processor
NUMBERS = [0, 1, -1, 2, 7, 100, 4000, 10**5, 2**31 - 1, 10**9, 2**63, 10**18, 10**30, int("9" * 400)]
FRACTIONS = [0.5, -0.0, 1e-9, 1e-320, 1e-40, 99.999999, 1e9, 1e30, 1e308, float("nan"), float("inf")]
TEXTS = [
    "",
    "self",
    "16G",
    "9" * 400 + "G",
    "nan",
    "-1",
    "x" * 5000,
    "\x1b[31m[/x]",
    "\ud800",
    "é中\u202e",
    "a\0b",
    "/dev/zero",
]
VALUES: list[Any] = [*NUMBERS, *FRACTIONS, *TEXTS, None, True, False, [], {}, [[]], [1, 2, 3], {"self": 1}, {"": {}}]

TINY = ModelShape(
    name="tiny",
    family="opt",
    num_layers=4,
    hidden_size=128,
    num_heads=4,
    num_kv_heads=4,
    head_dim=32,
    ffn_size=512,
    gated=False,
    vocab_size=2048,
    embed_size=128,
    tied_embeddings=True,
    positions="learned",
    max_positions=512,
    norm="layer",
)
ASKED = {"gpu_mem": "3M", "cpu_mem": "6M", "disk_mem": "64M", "prompt_len": 16, "gen_len": 8, "num_prompts": 8}
PROBLEM = Problem.of(TINY, hardware="cpu-host", **ASKED)  # type: ignore[arg-type]
PLAN = Plan.of(PROBLEM, policy_with(2, 2, w=(50, 50), cache=(50, 50), act=(50, 50)))
PROBLEM_FILE = {"model": "facebook/opt-125m", "hardware": "t4-gcp", "planner": "manual", "prompt_len": 8, "gen_len": 4}
PROBLEM_FILE |= {
    "gpu_mem": "4G",
    "num_prompts": 4,
    "policy": {"gpu_batch_size": 2, "comp_weight_config": {"num_bits": 4}},
}


def told(*args: str) -> None:
    """The command ends well or with an error that is not a bug, and an error comes at once."""
    began = time.process_time()
    result = CliRunner().invoke(app, list(args))
    took_s = time.process_time() - began
    what = (args, result.stderr[-1000:], result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), what
    assert "FP001" not in result.stderr and "Traceback" not in result.stderr and result.exit_code not in (1, 130), what
    assert not result.exit_code or "error[FP" in result.stderr or "Error: " in result.stderr, what
    assert took_s < (SLOWEST_S if result.exit_code else 20 * SLOWEST_S), (took_s, *what)


def mutated(rng: random.Random, given: Any) -> Any:
    """The same plain data with one to three of its values replaced, left out, doubled or renamed."""
    copy = json.loads(json.dumps(given))
    for _ in range(rng.randint(1, 3)):
        place = copy
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(place[key], dict | list) and rng.random() < 0.9:
                place = place[key]
                continue
            how = rng.random()
            if how < 0.8:
                place[key] = near(rng, place[key]) if rng.random() < 0.3 else rng.choice(VALUES)
            elif how < 0.9:
                del place[key]
            elif isinstance(place, dict):
                place[str(rng.choice(TEXTS))] = place.pop(key)
            break
    return copy


def near(rng: random.Random, value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return rng.choice([value + 1, value - 1, -value, value * 2, value * 10**6, value // 3])


def text_of(rng: random.Random, given: Any) -> bytes:
    """Its JSON, at times with bytes of it changed."""
    raw = bytearray(json.dumps(given).encode())
    if rng.random() < 0.15:
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    if rng.random() < 0.05:
        del raw[rng.randrange(len(raw)) :]
    return bytes(raw)


def toml_of(given: dict[str, Any]) -> bytes:
    """TOML of plain data; what TOML cannot say is written all the same."""
    lines, tables = [], []
    for key, value in given.items():
        if isinstance(value, dict) and key != "":
            tables += [f"[{key}]", *(f"{json.dumps(k)} = {toml_value(v)}" for k, v in value.items())]
        else:
            lines.append(f"{json.dumps(key)} = {toml_value(value)}")
    return "\n".join([*lines, *tables]).encode("utf-8", "surrogatepass")


def toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


@pytest.fixture
def given(tmp_path: Path) -> Callable[[bytes], str]:
    def write(content: bytes) -> str:
        (tmp_path / "given").write_bytes(content)
        return str(tmp_path / "given")

    return write


Given = Callable[[bytes], str]


@pytest.mark.parametrize(
    "command", [("simulate", "--json"), ("export", "--to", "device-map"), ("export", "--to", "vllm")]
)
def test_plan_files(command: tuple[str, ...], given: Given) -> None:
    rng = random.Random(f"plan {command}")
    for _ in range(CASES):
        told(command[0], given(text_of(rng, mutated(rng, PLAN.to_dict()))), *command[1:])


def test_plan_files_whose_numbers_are_left_as_they_were(given: Given) -> None:
    """Only the problem and the policy: what the numbers say is computed anew."""
    rng = random.Random("problem")
    for _ in range(CASES):
        plan = PLAN.to_dict()
        part = rng.choice(["policy", "problem"])
        told("simulate", given(text_of(rng, plan | {part: mutated(rng, plan[part])})))


def test_policies(given: Given) -> None:
    rng = random.Random("policy")
    for _ in range(CASES):
        told("simulate", given(text_of(rng, mutated(rng, Policy().to_dict()))))


def test_hardware_files(given: Given) -> None:
    rng, machine = random.Random("hardware"), json.loads(PROBLEM.hardware.model_dump_json())
    small = (
        "--planner",
        "manual",
        "--model",
        "facebook/opt-125m",
        "--gpu-mem",
        "4G",
        "--prompt-len",
        "8",
        "--gen-len",
        "4",
    )
    for _ in range(CASES):
        told("solve", *small, "--hardware", given(text_of(rng, mutated(rng, machine))))


def test_problem_files(given: Given) -> None:
    rng = random.Random("toml")
    for _ in range(CASES):
        told("solve", given(toml_of(mutated(rng, PROBLEM_FILE))))


def test_prompt_files(given: Given) -> None:
    rng = random.Random("prompts")
    line = {"id": 1, "prompt": [2, 5, 7], "text": "a", "token_ids": [2, 3]}
    for _ in range(CASES):
        lines = [text_of(rng, mutated(rng, line)) for _ in range(rng.randint(0, 4))]
        content = rng.choice([b"\n", b"\r\n", b"\0", b""]).join(lines)
        told(
            "solve",
            "--planner",
            "manual",
            "--model",
            "facebook/opt-125m",
            "--gpu-mem",
            "4G",
            "--prompts",
            given(content),
        )


def test_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some name a file to write
    rng = random.Random("flags")
    flags = [
        "--gpu-mem",
        "--cpu-mem",
        "--disk-mem",
        "--prompt-len",
        "--gen-len",
        "--num-prompts",
        "--hardware",
        "--model",
    ]
    flags += [
        "--objective",
        "--max-latency",
        "--min-throughput",
        "--allow",
        "--planner-timeout",
        "--schedule",
        "--planner",
    ]
    flags += ["--gpu-batch-size", "--num-gpu-batches", "--percent", "--prompts", "--tokenizer", "--seed", "-o", "--to"]
    words = [
        *map(str, NUMBERS + FRACTIONS),
        *TEXTS,
        "latency:nan",
        "memory:1e308",
        "manual",
        "4bit-cache",
        "50",
        "16G",
        "--",
    ]
    for _ in range(CASES):
        typed = [flag if rng.random() < 0.9 else rng.choice(words) for flag in rng.sample(flags, rng.randint(1, 4))]
        line = [word for flag in typed for word in (flag, rng.choice(words))]
        if "--min-throughput" not in line:  # a search over whole solves, however short the line
            told(rng.choice(["solve", "solve", "simulate", "explain", "export"]), "--planner", "manual", *line)
