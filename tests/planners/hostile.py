"""Planners that break every promise, and two that keep them: installed as a package by test_hostile_plugins.py."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from flexplan.errors import InfeasiblePlan
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.testing import policy_with

NAN = float("nan")


class Good:
    """All on the host, four sequences at a time."""

    policy = policy_with(4, 1, w=(0.0, 100.0), cache=(0.0, 100.0))

    def plan(self, problem: Problem) -> Plan:
        return Plan.of(problem, self.policy, planner="good")


class Noisy(Good):
    def plan(self, problem: Problem) -> Plan:
        print('{"not": "the answer"}')
        os.write(1, b"neither is this\n")
        return super().plan(problem)


class Boastful(Good):
    def plan(self, problem: Problem) -> Plan:
        plan = super().plan(problem)
        return replace(plan, prediction=replace(plan.prediction, tokens_per_s=1e12), realised={})


class Raises:
    def plan(self, problem: Problem) -> Plan:
        raise RuntimeError("on purpose")


class Exits:
    def plan(self, problem: Problem) -> Plan:
        sys.exit(0)


class Recurses:
    def plan(self, problem: Problem) -> Plan:
        return self.plan(problem)


class Refuses:
    def plan(self, problem: Problem) -> Plan:
        needs = {"gpu": 1 << 40, "cpu": None, "disk": None}
        raise InfeasiblePlan("FP403", "too small for me", fix="more", binding=("gpu",), smallest_budget_bytes=needs)


class Hangs:
    def plan(self, problem: Problem) -> Plan:
        while True:
            time.sleep(0.01)


class ReturnsText:
    def plan(self, problem: Problem) -> str:
        return "a plan"


class NotANumber(Good):
    def plan(self, problem: Problem) -> Plan:
        plan, policy = super().plan(problem), replace(self.policy)
        object.__setattr__(policy, "w_gpu_percent", NAN)
        return replace(plan, policy=policy)


class OutOfRange(Good):
    def plan(self, problem: Problem) -> Plan:
        plan, policy = super().plan(problem), replace(self.policy)
        object.__setattr__(policy, "w_gpu_percent", 180.0)
        return replace(plan, policy=policy)


class OverBudget(Good):
    def plan(self, problem: Problem) -> Plan:
        return replace(super().plan(problem), policy=Policy(8, 1))


class AnotherProblem(Good):
    """Fits, in a machine with a petabyte."""

    def plan(self, problem: Problem) -> Plan:
        return Plan.of(problem.with_budgets(gpu=1 << 50), Policy(8, 1))


class AMillionTasks(Good):
    def plan(self, problem: Problem) -> Plan:
        return replace(super().plan(problem), policy=replace(self.policy, gpu_batch_size=1, num_gpu_batches=200_000))


class NoSuchSchedule(Good):
    def plan(self, problem: Problem) -> Plan:
        return replace(super().plan(problem), schedule="boustrophedon")


class HalfAPlan(Good):
    def plan(self, problem: Problem) -> Plan:
        return Half(**{name: getattr(super(HalfAPlan, self).plan(problem), name) for name in Plan.__match_args__})


class Half(Plan):
    def to_json(self) -> str:
        return '{"planner": "half"}'


# -- only for a process of their own -----------------------------------------------------------------------------
class Dies:
    def plan(self, problem: Problem) -> Plan:
        os._exit(3)


class LeavesAChild(Good):
    """Answers well, and leaves a process behind that writes down its number."""

    def __init__(self, pid_file: str) -> None:
        self.pid_file = pid_file

    def plan(self, problem: Problem) -> Plan:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(self.pid_file).write_text(str(child.pid))
        return super().plan(problem)


class LeavesASession(Good):
    """Leaves a process behind in a session of its own, twice forked, which holds the pipe of the answer."""

    def __init__(self, pid_file: str, hang: bool = False) -> None:
        self.pid_file, self.hang = pid_file, hang

    def plan(self, problem: Problem) -> Plan:
        if not os.fork():
            os.setsid()
            if not os.fork():
                Path(self.pid_file).write_text(str(os.getpid()))
                time.sleep(600)
            os._exit(0)
        while not Path(self.pid_file).exists() or self.hang:
            time.sleep(0.01)
        return super().plan(problem)


class ReturnsTwice(Good):
    def plan(self, problem: Problem) -> Plan:
        os.fork()
        return super().plan(problem)


class FloodsForEver(Good):
    """Writes to whatever may be the pipe of the answer."""

    def plan(self, problem: Problem) -> Plan:
        while True:
            for descriptor in range(3, 20):
                with suppress(OSError):
                    os.write(descriptor, b"x" * (1 << 20))


class HoldsTheInterpreter:
    def plan(self, problem: Problem) -> Plan:
        re.match(r"(a+)+$", "a" * 60 + "b")
        raise AssertionError


class IgnoresAll:
    def plan(self, problem: Problem) -> Plan:
        for number in range(1, 32):
            with suppress(OSError):
                signal.signal(number, signal.SIG_IGN)
        time.sleep(600)
        raise AssertionError


class Stops:
    def plan(self, problem: Problem) -> Plan:
        os.kill(os.getpid(), signal.SIGSTOP)
        raise AssertionError


class KillsItsParent(Good):
    def plan(self, problem: Problem) -> Plan:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
        return super().plan(problem)


class Floods(Good):
    def plan(self, problem: Problem) -> Plan:
        plan = super().plan(problem)
        return Flood(**{name: getattr(plan, name) for name in Plan.__match_args__})


class Flood(Plan):
    def to_json(self) -> str:
        return " " * (8 << 20)
