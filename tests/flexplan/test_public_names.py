"""The names that users write against, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import flexplan

PUBLIC = [
    "CompressionConfig",
    "FlexplanError",
    "Hardware",
    "InfeasiblePlan",
    "ModelShape",
    "Plan",
    "Policy",
    "Problem",
    "Task",
    "TaskGraph",
    "Timeline",
    "Workload",
    "explain",
    "simulate",
    "solve",
]


def test_the_public_names_are_these() -> None:
    assert sorted(flexplan.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(flexplan))


def test_every_name_is_there_and_none_is_a_module() -> None:
    for name in PUBLIC:
        assert callable(getattr(flexplan, name)), name


RUNTIME = ["Done", "ExecutionEnv", "Generation", "OffloadedLM", "Request", "Sampling", "Tokenizer"]


def test_the_runtime_shows_its_names() -> None:
    import importlib.util

    import pytest

    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch")
    import flexplan_runtime

    assert sorted(flexplan_runtime.__all__) == RUNTIME


def test_importing_costs_nothing() -> None:
    """Seconds of this process, not of the clock: other tests share the cores."""
    code = (
        "import sys, time; began = time.process_time(); import flexplan; took = time.process_time() - began;"
        "loaded = {'torch', 'transformers', 'pulp', 'pydantic', 'numpy'} & sys.modules.keys();"
        "assert not loaded, loaded; assert took < 0.3, took"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_way_to_solve_loads_neither_checkpoints_nor_prompts_nor_numpy() -> None:
    code = (
        "import sys; from flexplan import Problem, solve;"
        "late = ('flexplan.model.checkpoint', 'flexplan.problem.prompts', 'flexplan.plan.plan_file', 'numpy');"
        "loaded = set(late) & sys.modules.keys(); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_planning_loads_no_tensor_library() -> None:
    code = (
        "import sys; from flexplan import Policy, Problem, simulate, solve;"
        "problem = Problem.of('facebook/opt-125m', prompt_len=8, gen_len=2);"
        "simulate(solve(problem, planner='lp')); simulate(solve(problem, planner='manual'));"
        "loaded = {'torch', 'transformers', 'safetensors'} & sys.modules.keys(); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
