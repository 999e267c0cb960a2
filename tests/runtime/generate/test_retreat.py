"""Memory that gives out in a pass: rows step back, blocks become smaller, tokens stay; after a few times it is said."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime.execute import ExecutionEnv, Sampling
from flexplan_runtime.generate import OffloadedLM
from flexplan_runtime.generate.blocks import BlockPlanner
from flexplan_runtime.generate.retreat import ran_out, smaller
from injectors import at_call, flexplan_threads, wrap_handlers
from policies import opened
from tiny_models import CONFIGS, saved
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.errors import MemoryExhausted, StorageError
from flexplan.policy import Policy

PROMPTS = [[9 + n, 40, 77, *[5] * (n % 3)] for n in range(19)]
NEW = 5
DRAWN = Sampling(do_sample=True, temperature=2.0, seed=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("retreat") / "model"
    saved(CONFIGS["llama"], place)
    return place


@pytest.fixture
def lm(model: Path, tmp_path: Path) -> Iterator[OffloadedLM]:
    with opened(model, Policy(4, 2, cache_gpu_percent=50.0, cache_cpu_percent=50.0), tmp_path / "off") as found:
        yield found


def gives_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB\nand more")


def test_a_block_is_halved_by_its_rows_and_then_by_its_micro_batches() -> None:
    sizes, policy = [], Policy(6, 3)
    while policy := smaller(policy):  # type: ignore[assignment]
        sizes.append((policy.gpu_batch_size, policy.num_gpu_batches))
    assert sizes == [(3, 3), (1, 3), (1, 1)]


def test_only_what_is_about_memory_is() -> None:
    yes = [torch.OutOfMemoryError("x"), MemoryError(), MemoryExhausted("FP701", "x")]
    yes += [RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), RuntimeError("can't allocate memory: you tried")]
    no = [RuntimeError("illegal memory access"), StorageError("FP616", "out of memory"), OSError(12, "x")]
    assert all(map(ran_out, yes)) and not any(map(ran_out, no))


@pytest.mark.parametrize("call", [0, 3, 30, 70])  # the first task, a prompt, decoding, the second block
@pytest.mark.parametrize("sampling", [Sampling(), DRAWN], ids=["greedy", "drawn"])
def test_rows_step_back_and_get_the_same_tokens_in_smaller_blocks(
    call: int, sampling: Sampling, lm: OffloadedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lm.complete(PROMPTS, NEW, sampling=sampling).tokens
    told: list[Policy] = []
    wrap_handlers(monkeypatch, at_call(call, gives_out), "compute")
    with pytest.warns(UserWarning, match="memory ran out .*20 MiB.* blocks are 2 rows x 2 .* no longer 4 rows x 2"):
        done = {
            one.index: list(one.token_ids) for one in lm.stream(PROMPTS, NEW, sampling=sampling, stepped=told.append)
        }
    assert done == dict(enumerate(whole))
    assert [(p.gpu_batch_size, p.num_gpu_batches) for p in told] == [(2, 2)]
    assert lm.complete(PROMPTS, NEW, sampling=sampling).tokens == whole
    assert [name for name in flexplan_threads() if name != "flexplan-disk_0"] == []


def test_a_prompt_that_had_ended_is_not_run_again(lm: OffloadedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lm.complete(PROMPTS, NEW).tokens
    stops = (whole[2][1],)  # some rows of the first block end two passes in
    expected = lm.complete(PROMPTS, NEW, stops=stops).tokens
    early = [n for n in range(8) if len(expected[n]) < 3]
    assert early
    run: list[Any] = []
    real = BlockPlanner._plan
    monkeypatch.setattr(BlockPlanner, "_plan", lambda self, p, *rest: (run.append(list(p)), real(self, p, *rest))[1])
    failing = [False]

    def fail_once(self: Sampling, *args: Any) -> Any:
        if failing and args[2] == 3:
            failing.clear()
            gives_out()
        return choose(self, *args)

    choose = Sampling.choose
    monkeypatch.setattr(Sampling, "choose", fail_once)
    with pytest.warns(UserWarning, match="memory ran out"):
        assert lm.complete(PROMPTS, NEW, stops=stops).tokens == expected
    again = [row.prompt for block in run if len(block) <= 4 for row in block]
    assert PROMPTS[8] in again and not any(PROMPTS[n] in again for n in early)


def test_memory_that_gives_out_every_time_is_an_error_that_names_the_knob(
    lm: OffloadedLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        wrap_handlers(patched, lambda handler: lambda *args: gives_out(), "compute")
        with pytest.raises(MemoryExhausted, match=r"FP704.* 1 rows x 1, also after 3 times fewer") as caught:
            lm.complete(PROMPTS, NEW)
    assert "gpu_batch_size" in caught.value.fix and "20 MiB" in caught.value.message and len(said) == 3
    assert len(lm.complete(PROMPTS, NEW).tokens) == len(PROMPTS)  # it is not poisoned
    big = Policy(256, 2)
    lm._calls.planner.policy = big
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        monkeypatch.setattr(type(lm._calls.room), "make_for", lambda self, plans: gives_out())
        with pytest.raises(MemoryExhausted, match=r"16 rows x 2, also after 4 times fewer"):
            lm.complete(PROMPTS, NEW)
    assert len(said) == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_that_fills_up_in_a_run_is_gone_on_with(model: Path, tmp_path: Path) -> None:
    """The allocator may hold no more than it does, what is free of that goes back, and the next pass finds no room."""
    prompts = [[3 + n % 90] * (24 + n % 3) for n in range(300)]
    with (
        ExecutionEnv.create(tmp_path / "off", device="cuda") as env,
        OffloadedLM(model, env, model, Policy(128, 1), dtype="float32") as lm,
    ):
        whole = lm.complete(prompts, NEW).tokens
        total = torch.cuda.mem_get_info()[1]
        passes = []

        def fill(done: int, _: int) -> None:
            passes.append(done)
            if len(passes) == 2:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
                torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)

        try:
            with pytest.warns(UserWarning, match="memory ran out .*blocks are 64 rows x 1"):
                found = lm.complete(prompts, NEW, progress=fill).tokens
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert found == whole


class Job:
    """A command line, and the blocks that it ran."""

    def __init__(self, place: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.out = place, place / "out.jsonl"
        self.blocks: list[int] = []
        (place / "policy.json").write_text(json.dumps({"gpu_batch_size": 4, "num_gpu_batches": 2}))
        self.write(len(PROMPTS))
        paths = ["policy.json", "--model", model, "--prompts", "in.jsonl", "-o", self.out, "--offload-dir", "off"]
        self.args = ["run", *map(str, paths), "--device", "cpu", "--max-new-tokens", str(NEW), "--dtype", "float32"]
        monkeypatch.chdir(place)
        real = BlockPlanner._plan

        def plan(planner: BlockPlanner, prompts: Any, *rest: Any) -> Any:
            self.blocks.append(len(prompts))
            return real(planner, prompts, *rest)

        monkeypatch.setattr(BlockPlanner, "_plan", plan)

    def write(self, count: int) -> None:
        lines = (json.dumps({"id": n, "prompt_ids": PROMPTS[n]}) + "\n" for n in range(count))
        (self.place / "in.jsonl").write_text("".join(lines))

    def run(self, *more: str) -> Any:
        self.blocks.clear()
        return CliRunner().invoke(app, [*self.args, *more])

    def answers(self) -> dict[int, list[int]]:
        return {row["id"]: row["token_ids"] for row in map(json.loads, self.out.read_text().splitlines())}


@pytest.fixture
def job(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(tmp_path, model, monkeypatch)


def test_a_job_keeps_its_smaller_blocks_for_the_resume(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job.run().exit_code == 0 and max(job.blocks) == 8
    whole = job.answers()
    job.write(12)
    with monkeypatch.context() as patched:
        wrap_handlers(patched, at_call(20, gives_out), "compute")
        result = job.run("--overwrite")
    assert result.exit_code == 0 and "memory ran out" in result.stderr and "2 rows x 2" in result.stderr
    job.write(len(PROMPTS))
    result = job.run("--resume")
    assert result.exit_code == 0 and "an earlier run" in result.stderr
    assert max(job.blocks) == 4 and job.answers() == whole


def test_a_job_without_memory_ends_with_7_and_is_gone_on_with(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job.run().exit_code == 0
    whole = job.answers()
    with monkeypatch.context() as patched:
        wrap_handlers(patched, lambda handler: lambda *args: gives_out(), "compute")
        result = job.run("--overwrite")
    assert result.exit_code == 7 and "FP704" in result.stderr and "gpu_batch_size" in result.stderr
    assert "Traceback" not in result.stderr and "FP001" not in result.stderr
    (job.place / "policy.json").write_text(json.dumps({"gpu_batch_size": 3, "num_gpu_batches": 1}))
    result = job.run("--resume")  # of another policy nothing is known
    assert result.exit_code == 0 and max(job.blocks) == 3 and job.answers() == whole
