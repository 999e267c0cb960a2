"""A law: what a request gives depends on the request alone, not on who shares its passes, nor on the schedule.

All of its bytes on the host in float32, but for the last digits of log-probabilities.

``FLEXPLAN_RANDOM_REQUESTS=500 pytest -n auto tests/runtime/commands/test_random_requests.py`` tries more than usual.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from flexplan_runtime.embedded import tiny_opt_path, tiny_opt_prompts

from flexplan import Plan, Policy, Problem
from flexplan.cli.launch import run_to_file
from flexplan.cli.results import Target
from flexplan.errors import RequestsFailed
from flexplan.job import RunRequest
from flexplan.testing import policy_with

COUNT = int(os.environ.get("FLEXPLAN_RANDOM_REQUESTS", "4"))
LONGEST = 512  # tokens that the embedded model reads
VOCAB = 512
LINES = 14
NOISE = 2e-5  # of a log-probability: float32 sums are rounded by how many rows are multiplied together
NEW_TOKENS = 6  # of lines that do not say

Draw = Callable[[Random], Any]
WISHES: dict[str, Draw] = {
    "max_tokens": lambda r: r.choice((1, 2, 5, 17)),
    "stop": lambda r: r.choice((" ", ["e", "a "], ["\n", "the", "ing", "."])),
    "stop_token_ids": lambda r: r.sample(range(VOCAB), r.randint(1, 40)),
    "seed": lambda r: r.randint(-5, 5),
    "temperature": lambda r: r.choice((0.3, 0.9, 1.7)),
    "top_p": lambda r: r.uniform(0.3, 1),
    "top_k": lambda r: r.choice((-1, 1, 7)),
    "min_p": lambda r: r.choice((0, 0.05)),
    "n": lambda r: r.choice((1, 2, 3)),
    "repetition_penalty": lambda r: r.uniform(0.7, 1.6),
    "presence_penalty": lambda r: r.uniform(-2, 2),
    "frequency_penalty": lambda r: r.uniform(-2, 2),
    "logprobs": lambda r: r.choice((0, 2, 5)),
    "logit_bias": lambda r: {str(r.randrange(VOCAB)): r.uniform(-5, 5) for _ in range(3)},
}


def request(r: Random, n: int) -> dict[str, Any]:
    """A prompt with some wishes; one in ten is about as long as the model reads, some of these too long."""
    found: dict[str, Any] = {name: WISHES[name](r) for name in r.sample(sorted(WISHES), r.randint(0, 5))}
    if r.random() < 0.1:
        length = LONGEST - found.get("max_tokens", NEW_TOKENS) + r.choice((-1, 0, 0, 0, 1))
        return {"id": n, "prompt_ids": [r.randrange(4, VOCAB) for _ in range(length)], **found}
    if r.random() < 0.4:
        return {"id": n, "prompt_ids": [r.randrange(4, VOCAB) for _ in range(r.randint(1, 40))], **found}
    return {"id": n, "prompt": r.choice(tiny_opt_prompts())[: r.randint(1, 200)], **found}


def policies(r: Random) -> dict[str, Policy | Plan]:
    """One row at a time; blocks; and seats, some of which are outgrown."""
    rows, batches = r.choice(((2, 3), (4, 2), (3, 1), (16, 1))), r.choice((1, 2, 3))
    host = {"cpu_cache_compute": True, "sep_layer": r.random() < 0.5}
    w, cache = r.choice((((100, 0), (100, 0)), ((0, 100), (0, 100)), ((30, 70), (50, 50))))
    seats = policy_with(r.randint(1, 5), batches, w=w, cache=cache, **host, room_percent=r.choice((0, 30, 100)))
    planned = Problem.of(str(tiny_opt_path()), hardware="cpu-host", prompt_len=64, gen_len=8, num_prompts=LINES)
    return {
        "one": Policy(1, 1),
        "zigzag": policy_with(*rows, w=w, cache=cache, **host),
        "rolling": Plan.of(planned, seats, schedule="rolling", planner="manual"),
    }


def outputs(place: Path, policy: Policy | Plan) -> tuple[str, list[str]]:
    """What a job writes: its output in order, its failed requests sorted."""
    place.mkdir()
    model = str(tiny_opt_path())
    job = RunRequest(
        policy, model, offload_dir=place / "off", device="cpu", dtype="float32", max_new_tokens=NEW_TOKENS, seed=7
    )
    try:
        run_to_file(job, str(place.parent / "in.jsonl"), Target(place / "out.jsonl", ordered=True))
    except RequestsFailed:
        failed = (place / "out.errors.jsonl").read_text()
        assert "FP1102" not in failed
        return (place / "out.jsonl").read_text(), sorted(failed.splitlines())
    return (place / "out.jsonl").read_text(), []


def apart(text: str) -> tuple[list[Any], list[float]]:
    """The lines without log-probabilities, and those: all in one order."""
    rows, told = [json.loads(line) for line in text.splitlines()], list[float]()
    for row in rows:
        for choice in row.get("choices", [row]):
            for one in choice.pop("logprobs", None) or ():
                told += [one["logprob"], *(top["logprob"] for top in one["top_logprobs"])]
    return rows, told


@pytest.mark.parametrize("seed", range(COUNT))
def test_the_bytes_of_a_job_are_those_of_each_request_alone(seed: int, tmp_path: Path) -> None:
    r = Random(seed)
    lines = [json.dumps(request(r, n)) + "\n" for n in range(LINES)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    found = {name: outputs(tmp_path / name, policy) for name, policy in policies(r).items()}
    alone, failed = found.pop("one")
    assert alone.count("\n") + len(failed) == LINES and alone.count("\n") > LINES // 2
    rows, logprobs = apart(alone)
    for name, (text, others) in found.items():
        others_rows, others_logprobs = apart(text)
        assert others_rows == rows and others == failed, name
        assert others_logprobs == pytest.approx(logprobs, rel=0, abs=NOISE), name
