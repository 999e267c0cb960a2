"""Jobs on a Ray cluster: the answers of one process, the same log, the same errors; nothing that waits for ever."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from flexplan_runtime.adapters import ray_cluster, ray_runtime
from flexplan_runtime.adapters.ray_cluster import Pool, pool_of
from flexplan_runtime.adapters.ray_worker import Worker, portable
from tiny_models import CONFIGS, saved
from typer.testing import CliRunner, Result

from flexplan import signals
from flexplan.cli.app import app
from flexplan.errors import FlexplanError, InfeasiblePlan, NoNumbers, UsageError

NEW = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One machine of two CPUs, for all tests; Ctrl-C and SIGTERM stay ours."""
    heard = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ray_cluster, "HERE", "local")
        real = ray.init
        patched.setattr(ray, "init", lambda **how: real(num_cpus=2, **how))
        with ray_cluster.connected(None):
            assert signal.getsignal(signal.SIGTERM) is heard
            yield
    assert not ray.is_initialized()


class Job:
    def __init__(self, place: Path) -> None:
        self.place, self.out = place, place / "out.jsonl"
        saved(CONFIGS["llama"], place / "model")
        (place / "policy.json").write_text(json.dumps({"gpu_batch_size": 2, "num_gpu_batches": 2}))
        lines = [{"id": n, "prompt_ids": [3 + n, 40, 7]} for n in range(22)]
        lines.insert(5, {"id": "bad", "prompt_ids": [10**7]})
        (place / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(self, *more: Any) -> Result:
        paths = ["policy.json", "--model", "model", "--prompts", "in.jsonl", "-o", self.out]
        args = ["run", *map(str, paths), "--device", "cpu", "--dtype", "float32", "--max-new-tokens", str(NEW)]
        return CliRunner().invoke(app, [*args, *map(str, more)])

    def answers(self) -> dict[int, list[int]]:
        rows = [json.loads(line) for line in self.out.read_text().splitlines()]
        assert len({row["id"] for row in rows}) == len(rows), "doubled"
        return {row["id"]: row["token_ids"] for row in rows}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(tmp_path)
    return Job(tmp_path)


# -- a pool ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("machines", "workers", "device", "expected"),
    [
        ([{"CPU": 16, "GPU": 1}], None, None, Pool(1, 16, 1)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 16}], None, None, Pool(4, 4, 1)),
        ([{"CPU": 8}, {"CPU": 8}, {"CPU": 8}], None, None, Pool(3, 8, 0)),
        ([{"CPU": 8}, {"CPU": 8}, {"CPU": 8}], 4, None, Pool(4, 4, 0)),
        ([{"CPU": 8, "GPU": 2}], None, "cpu", Pool(1, 8, 0)),
        ([{"CPU": 3}], 2, "cpu", Pool(2, 1, 0)),
    ],
)
def test_a_pool_fits_the_machines_whole(machines: Any, workers: Any, device: Any, expected: Pool) -> None:
    assert pool_of(machines, workers, device) == expected


@pytest.mark.parametrize(
    ("machines", "workers", "device"),
    [([{"CPU": 1}], 2, None), ([{"CPU": 8, "GPU": 1}], 2, None), ([{"CPU": 8}], None, "cuda"), ([], None, None)],
)
def test_a_pool_that_does_not_fit_is_refused_with_numbers(machines: Any, workers: Any, device: Any) -> None:
    with pytest.raises(UsageError, match=r"FP155.* CPU.* the cluster has \d+ CPUs and \d+ GPUs on \d machines"):
        pool_of(machines, workers, device)


def test_errors_cross_processes_whole() -> None:
    for error in (
        NoNumbers("FP1102", "x", fix="y", broken={1: 2}, tokens=[[3]]),
        InfeasiblePlan("FP407", "x", binding=("gpu",), smallest_budget_bytes={"gpu": 5}),
        FlexplanError("FP001", "x", state="z"),
    ):
        found = portable(error)
        assert type(found) is type(error) and vars(found) == vars(error) and str(found) == str(error)
    assert "a lambda" in str(portable(ValueError("a lambda", lambda: 0)))


# -- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--workers", 2], "FP165"),
        (["--ray-address", "10.0.0.1:6379"], "FP165"),
        (["--ray", "--device", "cuda:1"], "FP157"),
        (["--ray", "--record", "r.json"], "FP137"),
        (["--ray", "--ray-address", "no-such-host:1"], "FP154"),
    ],
)
def test_what_a_cluster_cannot_honour_is_refused_by_name(job: Job, flags: list[Any], code: str) -> None:
    assert not ray.is_initialized()  # these come before the cluster
    paths = ["policy.json", "--model", "model", "--prompts", "in.jsonl", "-o", "out.jsonl"]
    result = CliRunner().invoke(app, ["run", *paths, *map(str, flags)])
    assert result.exit_code == 2 and code in result.stderr, result.output


# -- a job -----------------------------------------------------------------------------------------------------------
def test_two_workers_give_the_answers_of_one_process(job: Job, cluster: None) -> None:
    result = job.run("--ray", "--workers", 2)
    assert result.exit_code == 5 and "1 of 23" in result.stderr and "2 workers, 1 CPUs" in result.stderr, result.output
    found, before = job.answers(), job.out.read_bytes()
    assert "FP305" in (job.place / "out.errors.jsonl").read_text()
    assert job.run("--ray", "--resume").exit_code == 5 and job.out.read_bytes() == before  # nothing is computed twice
    assert job.run("--overwrite").exit_code == 5 and job.answers() == found


def test_a_job_that_was_stopped_is_gone_on_with_anywhere(
    job: Job, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(signals, "stop_after_pass", lambda: job.out.exists() and len(job.answers()) >= 4)
        result = job.run("--ray", "--workers", 1)
    assert result.exit_code == 75 and "are left" in result.stderr, result.output
    seen = job.answers()
    assert 4 <= len(seen) < 22
    assert job.run("--resume").exit_code == 5  # in this process
    whole = job.answers()
    assert len(whole) == 22 and seen.items() <= whole.items()


def test_what_fails_in_a_worker_is_the_callers_error(job: Job, cluster: None) -> None:
    (job.place / "policy.json").write_text(json.dumps({"w_gpu_percent": 0, "w_cpu_percent": 0}))
    (job.place / "off").write_text("a file")
    result = job.run("--ray", "--offload-dir", "off")
    assert result.exit_code == 6 and "FP605" in result.stderr and "Traceback" not in result.output
    result = job.run("--ray", "--gpu-mem", "1K", "--overwrite")
    assert result.exit_code == 3 and "--gpu-mem" in result.stderr, result.output


class Dying(Worker):
    """Its process ends in every batch."""

    def __call__(self, batch: Any) -> Any:
        os._exit(1)


def test_a_worker_that_dies_each_time_is_an_error_and_no_hang(
    job: Job, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(ray_runtime, "Worker", Dying)
    result = job.run("--ray", "--workers", 1)
    assert result.exit_code == 7 and "FP705" in result.stderr and "Traceback" not in result.output


def test_workers_that_cannot_start_are_refused_or_said_after_a_while(
    job: Job, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = job.run("--ray", "--workers", 3)
    assert result.exit_code == 2 and "FP155" in result.stderr and not job.out.exists()

    @ray.remote(num_cpus=2)
    class Other:
        def at_work(self) -> bool:
            return True

    other = Other.remote()
    assert ray.get(other.at_work.remote())
    monkeypatch.setattr(ray_cluster, "START_S", 6.0)
    began_s = time.monotonic()
    result = job.run("--ray", "--workers", 1)
    assert result.exit_code == 9 and "FP1002" in result.stderr, result.output
    assert "0 of 2 CPUs free" in result.stderr and time.monotonic() - began_s < 60
