"""As a library flexplan writes nothing to standard output while it runs a model: a whole process, from descriptor 1."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from flexplan import Problem, solve
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.embedded import tiny_opt_path

model, budgets = str(tiny_opt_path()), {"gpu_mem": "2M", "cpu_mem": "8M", "disk_mem": "64M"}
plan = solve(Problem.of(model, hardware="cpu-host", prompt_len=16, gen_len=8, num_prompts=2, **budgets))
with ExecutionEnv.create(sys.argv[1], device="cpu", **budgets) as env, OffloadedLM(model, env, model, plan) as lm:
    assert len(lm.generate([[2, 100, 200, 300], [2, 400]], max_new_tokens=8)[0]) == 12
"""


def test_planning_and_generating_write_nothing_to_standard_output(tmp_path: object) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
