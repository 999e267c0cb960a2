"""Limits: a number with a digit too many, a file without an end: refused by name, and at once."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from flexplan import Hardware, Plan, Policy, Problem, Workload, simulate, solve
from flexplan.cli.problem_file import ProblemFile
from flexplan.errors import FlexplanError, PolicyError, UsageError
from flexplan.explanation import explain
from flexplan.export import export_plan
from flexplan.limits import shown
from flexplan.plan import load_policy
from flexplan.plan.plan import digest
from flexplan.plan.planner import check_plan
from flexplan.testing import policy_with
from flexplan.units import parse_size

PROBLEM = Problem.of("facebook/opt-125m", prompt_len=16, gen_len=4, num_prompts=10)
PLAN = Plan.of(PROBLEM, policy_with(2, 2, w=(30, 40), cache=(30, 40), act=(30, 40)))
HUGE = int("9" * 400)


def changed(path: str, value: Any) -> str:
    """The plan's text with one value in it replaced."""
    given = json.loads(PLAN.to_json())
    *parts, last = path.split(".")
    here = given
    for part in parts:
        here = here[part]
    here[int(last) if isinstance(here, list) else last] = value
    return json.dumps(given)


def refused(read: Callable[[], object]) -> FlexplanError:
    """The error, which took less than a second of work and is not ours."""
    began = time.process_time()
    with warnings.catch_warnings(), pytest.raises(FlexplanError) as error:
        warnings.simplefilter("ignore")
        read()
    assert time.process_time() - began < 1 and error.value.code != "FP001" and error.value.fix
    assert len(str(error.value)) < 2000
    return error.value


# -- plan files -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "path",
    [
        "placement.asked.w",
        "placement.asked.act.2",
        "placement.realised.w.0",
        "placement.realised.cache.1",
        "prediction.tokens_per_s",
        "prediction.prefill_s",
        "prediction.decode_s",
        "prediction.block_s",
        "prediction.peak_bytes.gpu",
        "prediction.busiest_lane.decode",
        "prediction.lane_busy_s.decode.gpu",
    ],
)
@pytest.mark.parametrize("value", [1, -1, HUGE, None, "gpu2", [1.0, 2.0, 3.0], {}], ids=str)
def test_what_does_not_follow_from_the_policy_is_refused(path: str, value: Any) -> None:
    error = refused(lambda: Plan.from_json(changed(path, value)))
    assert error.code in ("FP208", "FP213") and path.rpartition(".")[0] in error.message


def test_a_placement_that_does_not_follow_is_named_beside_what_does() -> None:
    error = refused(lambda: Plan.from_json(changed("placement.asked.w", [100.0, 0.0, 0.0])))
    assert "placement.asked.w.0 is 100.0, its policy gives 30" in error.message


def test_a_plan_of_another_flexplan_is_computed_anew() -> None:
    given = json.loads(changed("prediction.decode_s", 1e-3))
    stated = {k: v for k, v in given["prediction"].items() if k not in ("of", "sum")}
    given["prediction"]["sum"] = digest({"placement": given["placement"], "prediction": stated})
    with pytest.warns(UserWarning, match="another flexplan"):
        assert Plan.from_json(json.dumps(given)) == PLAN


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("problem.model.num_layers", 10**9),
        ("problem.model.num_layers", 4000),
        ("problem.model.hidden_size", 10**30),
        ("problem.model.num_kv_heads", 5),
        ("problem.model.experts_per_token", 2),
        ("problem.model.name", "\x1b[31m"),
        ("problem.model.name", "\ud800"),
        ("problem.hardware.gpu_bytes_per_s", 1e-320),
        ("problem.hardware.link_up_bytes_per_s", 1e-9),
        ("problem.hardware.kernel_s", 1e300),
        ("problem.hardware.gpu_bytes", 10**30),
        ("problem.workload.gen_len", 10**9),
        ("problem.workload.num_prompts", HUGE),
        ("policy.num_gpu_batches", 10**7),
        ("policy.num_gpu_batches", 10**6),
        ("policy.gpu_batch_size", 10**6),
        ("policy.comp_weight_config.group_size", HUGE),
        ("planner", "\x1b[31m"),
        ("planner", ["search"]),
        ("schedule", "x" * 10**5),
        ("version", HUGE),
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_is_refused_at_once(path: str, value: Any) -> None:
    refused(lambda: Plan.from_json(changed(path, value)))


@pytest.mark.parametrize("path", ["", "placement", "placement.asked", "prediction", "prediction.peak_bytes", "problem"])
def test_an_unknown_key_of_a_plan_is_refused(path: str) -> None:
    refused(lambda: Plan.from_json(changed(f"{path}.colour".lstrip("."), 1)))


def test_as_many_prompts_as_anyone_has_are_counted_not_walked_through() -> None:
    began = time.process_time()
    million = Problem.of("facebook/opt-125m", num_prompts=10**6 + 1, gen_len=1000)
    billion = million.model_copy(update={"workload": Workload(num_prompts=10**9, gen_len=1000)})
    plans = [Plan.of(problem, Policy(8, 2)) for problem in (million, billion)]
    assert plans[1].prediction.total_s == pytest.approx(1000 * plans[0].prediction.total_s, rel=0.01)
    assert time.process_time() - began < 5


def test_lengths_of_a_hundred_thousand_prompts_fit_a_plan_file(tmp_path: Path) -> None:
    many = PROBLEM.model_copy(update={"workload": Workload(prompt_lens=(7, 9) * 50_000, gen_len=4)})
    saved = Plan.of(many, Policy(2, 2))
    saved.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == saved


# -- files ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("read", [load_policy, Plan.load, Hardware.load, ProblemFile.load])
@pytest.mark.parametrize("kind", ["directory", "pipe", "device", "sparse", "link to itself", "nul"])
def test_what_is_no_file_of_settings_is_not_read(kind: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "given"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 1 << 40)
    elif kind == "nul":
        path = tmp_path / "a\0b"
    else:
        path.symlink_to(path)
    assert "cannot" in refused(lambda: read(path)).message


def test_a_pipe_that_is_open_already_is_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, Policy().to_json().encode())
    os.close(writer)
    assert load_policy(f"/dev/fd/{reader}") == Policy()
    os.close(reader)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "policy = " + "{a=" * 500 + "1" + "}" * 500,
        "[" + ".".join("a" * 100_000) + "]",
        "num_prompts = " + "9" * 5000,
        "num_prompts = " + "9" * 400,
        "self = 1",
        "[policy]\nself = 1",
        "[policy.comp_weight_config]\nself = 1",
        "[policy]\nw_gpu_percent = nan",
        "[policy]\nw_gpu_percent = 2020-01-01",
        'gpu_mem = "' + "9" * 400 + 'G"',
        "max_latency = 1e-320",
        "min_throughput = inf",
    ],
    ids=lambda text: text[:40],
)
def test_a_problem_file_beyond_sense_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "problem.toml").write_text(text)

    def asked() -> None:
        asked = ProblemFile.load(tmp_path / "problem.toml")
        asked.problem()
        asked.chosen_planner()

    refused(asked)


# -- numbers ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "size", ["9" * 400, "9" * 400 + "G", "1" + "0" * 30, "0." + "9" * 400, HUGE, -HUGE, 1 << 61, "٣G"]
)
def test_a_size_that_no_machine_has_is_refused(size: str | int) -> None:
    assert refused(lambda: parse_size(size)).code == "FP101"


@pytest.mark.parametrize("field", ["prompt_len", "gen_len", "num_prompts"])
@pytest.mark.parametrize(
    "value", [HUGE, 10**18, 10**5000, -1, 0, 1.5, "12"], ids=["400", "18", "5000", "-1", "0", ".", "t"]
)
def test_a_workload_that_cannot_be_is_refused(field: str, value: Any) -> None:
    assert field in refused(lambda: Workload.of(**{field: value})).message


def test_a_policy_takes_self_for_a_wrong_field() -> None:
    with pytest.raises(PolicyError, match="no such field"):
        Policy.from_dict({"self": 1})
    with pytest.raises(PolicyError, match="no such field"):
        Policy(self=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_planner_has_some_time_and_not_for_ever(seconds: float) -> None:
    with pytest.raises(UsageError, match="planner's time"):
        solve(PROBLEM, timeout_s=seconds)


def test_a_long_value_is_shown_by_its_beginning() -> None:
    assert shown(10**5000) == "a number of about 5,000 digits"
    assert len(shown("x" * 10**6)) < 100
    deep: list[Any] = []
    for _ in range(10**5):
        deep = [deep]
    assert shown(deep) == "a list"


# -- as values --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "value", [PROBLEM, PROBLEM.hardware, PROBLEM.workload, PLAN, PLAN.policy], ids=lambda v: type(v).__name__
)
def test_equal_values_are_one_in_a_set_and_a_cache(value: Any) -> None:
    again = Plan.from_json(value.to_json()) if isinstance(value, Plan) else value
    if hasattr(value, "model_dump_json"):
        again = type(value).model_validate_json(value.model_dump_json())
    elif isinstance(value, Policy):
        again = replace(value)
    assert again is not value or isinstance(value, Policy)
    assert {value, again} == {value} and hash(value) == hash(again)
    calls: list[Any] = []
    cached = lru_cache(calls.append)
    cached(value)
    cached(again)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "value", [PLAN, PLAN.graph, simulate(PLAN), PLAN.problem, explain(PLAN)], ids=lambda v: type(v).__name__
)
def test_what_is_shown_at_a_prompt_is_short(value: Any) -> None:
    assert len(repr(value)) < 5000


def test_a_name_instead_of_a_problem_is_told_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"solve takes a Problem, not str 'facebook/opt-30b': solve\(Problem\.of\("):
        solve("facebook/opt-30b")  # type: ignore[arg-type]
    for wrong in (PROBLEM, "plan.json", None):
        for ask in (simulate, explain, check_plan, lambda plan: export_plan(plan, "vllm")):
            with pytest.raises(TypeError, match="takes a Plan"):
                ask(wrong)  # type: ignore[operator]
    with pytest.raises(TypeError, match="takes a Problem and a Policy"):
        Plan.of(PLAN.policy, PROBLEM)  # type: ignore[arg-type]
    for planner in (3, type("Mine", (), {"plan": None})):
        with pytest.raises(TypeError, match="a planner's name or an instance"):
            solve(PROBLEM, planner)  # type: ignore[arg-type]
