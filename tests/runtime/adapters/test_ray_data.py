"""flexplan in a Ray Data pipeline: rows answered as on the command line, resumed by ids, traps refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from flexplan_runtime.adapters import ray_cluster, ray_data
from flexplan_runtime.adapters.ray_cluster import without
from flexplan_runtime.adapters.ray_data import RowWorker, complete, keep_checkpoint, read_requests
from policies import opened
from tiny_models import CONFIGS, saved

from flexplan.errors import StorageError, UsageError
from flexplan.job import RunRequest
from flexplan.policy import Policy
from flexplan.problem.prompts import Prompt

POLICY = Policy(2, 2)
ROWS = [{"name": f"r{n}", "prompt_ids": [3 + n, 40, 7]} for n in range(16)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ray") / "model"
    saved(CONFIGS["llama"], place)
    return place


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        real = ray.init
        patched.setattr(ray, "init", lambda **how: real(num_cpus=4, **how))
        with ray_cluster.connected(None):
            yield


@pytest.fixture(autouse=True)
def context() -> Iterator[None]:
    yield
    ray.data.DataContext.get_current().checkpoint_config = None


def request_of(model: Path, place: Path) -> RunRequest:
    return RunRequest(POLICY, str(model), max_new_tokens=4, dtype="float32", device="cpu", offload_dir=place / "off")


def expected(model: Path, place: Path) -> dict[str, list[int]]:
    with opened(model, POLICY, place / "off") as lm:
        tokens = lm.complete([row["prompt_ids"] for row in ROWS], 4).tokens
    return {str(row["name"]): ids for row, ids in zip(ROWS, tokens, strict=True)}


def written(out: Path) -> dict[str, Any]:
    rows = [json.loads(line) for file in out.glob("*.json") for line in file.read_text().splitlines()]
    assert len({row["name"] for row in rows}) == len(rows), "doubled"
    return {row["name"]: row for row in rows}


def test_bad_rows_are_kept_out_each_in_its_own_way(model: Path, tmp_path: Path) -> None:
    worker = RowWorker(request_of(model, tmp_path), "name")

    def answers(*rows: dict[str, Any]) -> list[tuple[str, list[int], str]]:
        names = dict.fromkeys(name for row in rows for name in row)
        found = worker({name: [row.get(name) for row in rows] for name in names})
        return list(
            zip(found["name"].tolist(), found["token_ids"], [e.partition(":")[0] for e in found["error"]], strict=True)
        )

    right = expected(model, tmp_path)
    bad = {"name": "long", "prompt_ids": [3] * 5000}, {"name": "other", "prompt_ids": [10**7]}, {"name": "none"}
    found = answers(ROWS[0], bad[0], bad[1], ROWS[1], bad[2])
    assert found[0] == ("r0", right["r0"], "") and found[3] == ("r1", right["r1"], "")
    assert [(name, ids, bool(error)) for name, ids, error in found if error] == [(row["name"], [], True) for row in bad]
    alone = answers(bad[0], bad[1])  # where all are bad
    assert [error for _, _, error in alone] == [found[1][2], found[2][2]] and found[1][2] != found[2][2]
    twice = answers(ROWS[0], ROWS[0], {**ROWS[1], "n": 2, "temperature": 1.0}, {**ROWS[1], "logprobs": 3})
    assert [ids for _, ids, _ in twice] == [right["r0"], right["r0"], [], []]
    assert [error for _, _, error in twice] == ["", "", "FP326", "FP326"]


def test_what_is_no_rows_fault_is_raised(model: Path, tmp_path: Path) -> None:
    (tmp_path / "off").write_text("a file")
    request = RunRequest(Policy(2, 2, w_gpu_percent=0.0), str(model), device="cpu", offload_dir=tmp_path / "off")
    with pytest.raises(StorageError, match="FP605"):
        RowWorker(request, "name")({"name": ["x"], "prompt_ids": [[3, 4]]})


def test_a_pipeline_answers_and_its_resume_answers_only_the_rest(model: Path, tmp_path: Path, cluster: None) -> None:
    """Small files stay several blocks; the second run has twelve rows more, and writes these alone."""
    for n in range(2):
        lines = (json.dumps(row) + "\n" for row in ROWS[2 * n : 2 * n + 2])
        (tmp_path / f"in{n}.jsonl").write_text("".join(lines))
    request, right = request_of(model, tmp_path), expected(model, tmp_path)
    keep_checkpoint(str(tmp_path / "done"), "name")

    def run(paths: list[str], out: Path) -> dict[str, Any]:
        complete(read_requests(paths, 2), request, workers=1, id_column="name").write_json(str(out))
        return written(out)

    first = run([str(tmp_path / f"in{n}.jsonl") for n in range(2)], tmp_path / "out1")
    assert {name: row["token_ids"] for name, row in first.items()} == {f"r{n}": right[f"r{n}"] for n in range(4)}
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    second = run([str(tmp_path / "all.jsonl")], tmp_path / "out2")
    assert {name: row["token_ids"] for name, row in second.items()} == {f"r{n}": right[f"r{n}"] for n in range(4, 16)}
    assert all(row["error"] == "" and row["finish_reason"] == "length" for row in (first | second).values())


def test_what_ray_would_wait_for_or_die_of_is_refused(model: Path, tmp_path: Path, cluster: None) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    request = request_of(model, tmp_path)
    dataset = read_requests(str(tmp_path / "in.jsonl"), 2)
    with pytest.raises(UsageError, match=r"FP155.*4 workers need a CPU each, the cluster has 3 CPUs"):
        complete(dataset, request, workers=4)
    keep_checkpoint(str(tmp_path / "done"), "name")
    with pytest.raises(UsageError, match="3 workers need a CPU each, the cluster has 2 CPUs"):
        complete(read_requests(str(tmp_path / "in.jsonl"), 2), request, workers=3)
    with pytest.raises(UsageError, match=r"FP159.*lines=True"):
        complete(ray.data.read_json(str(tmp_path / "in.jsonl"), lines=True), request, workers=1)
    with pytest.raises(UsageError, match="FP158"):
        complete(dataset, RunRequest(POLICY, str(model), (Prompt(0, (3,), 1),)), workers=1)


def test_cpus_are_kept_free_where_there_are_most() -> None:
    assert without([{"CPU": 2.0, "GPU": 1.0}, {"CPU": 8.0}], 2) == [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 6.0}]
    assert without([], 2) == [] and without([{"CPU": 1.0}], 2) == [{"CPU": 0.0}]
    assert ray_data.ID == "id"
