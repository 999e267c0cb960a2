"""Planners of other packages run apart, with a time limit: whatever they do, an answer or an error comes back.

A planner known by name runs in a process of its own, which is killed with all its children at the limit: only
that stops a loop in compiled code, an endless allocation or a fork, and a fresh process shares no locks with
this one.  It costs a third of a second, so the built-in planners do not run that way.  An instance is the
caller's own code and may not survive pickling: it runs on a thread, which is left behind at the limit.

What comes back is text, the plan's JSON: nothing of the stranger's objects is used.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flexplan.errors import FlexplanError, InfeasiblePlan, PluginError
from flexplan.plan.plan import Plan
from flexplan.plugins import PLANNERS, make
from flexplan.problem.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_BYTES = 4 << 20  # of an answer

Answer = dict[str, Any]


def answer_by_name(problem: Problem, name: str, options: Mapping[str, Any], timeout_s: float) -> str:
    """The JSON of the plan that an installed planner makes in a process of its own.

    Raises PluginError, which names it, or the InfeasiblePlan that it raised.
    """
    try:
        request = json.dumps({"planner": name, "options": dict(options), "problem": problem.model_dump(mode="json")})
    except TypeError as error:
        raise PluginError("FP902", f"{name} does not take {options}: {error}", fix="give plain data") from None
    paths = os.pathsep.join(path or "." for path in sys.path)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "flexplan.plan.sandbox"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
    ) as child:
        try:
            written, _ = child.communicate(request.encode(), timeout_s)
        except subprocess.TimeoutExpired:
            raise too_slow(name, timeout_s) from None
        finally:
            _kill(child)
    return _read(name, written, child.returncode)


def answer_of_instance(problem: Problem, planner: Any, name: str, timeout_s: float) -> str:
    """The same of an object, on a thread that is left behind where it does not end."""
    found: list[Answer] = []
    thread = threading.Thread(
        target=lambda: found.append(_answer(lambda: planner.plan(problem))), name=f"planner {name}", daemon=True
    )
    thread.start()
    thread.join(timeout_s)
    if not found:
        raise too_slow(name, timeout_s)
    return _unpack(name, found[0])


def too_slow(name: str, timeout_s: float) -> PluginError:
    """The error for a planner that did not answer."""
    return PluginError(
        "FP905",
        f"planner {name} gave no answer within {timeout_s:g} s",
        fix="allow it more with --planner-timeout, or ask another planner",
    )


def failed(name: str, why: str) -> PluginError:
    """The error for a planner that broke down."""
    return PluginError("FP903", f"planner {name} failed: {why}", fix="report it to its author")


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a child and all that it started: what it left running would go on for nobody."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _read(name: str, written: bytes, exit_code: int) -> str:
    if len(written) > _MOST_BYTES:
        raise failed(name, f"its answer is {len(written)} bytes, allowed {_MOST_BYTES}")
    try:
        answer = json.loads(written)
    except ValueError:
        raise failed(name, f"its process ended with exit code {exit_code} and no answer") from None
    return _unpack(name, answer)


def _unpack(name: str, answer: Answer) -> str:
    """The plan's text; a failure is raised."""
    if "plan" in answer:
        return str(answer["plan"])
    if "failure" in answer:
        raise failed(name, answer["failure"])
    if "returned" in answer:
        raise PluginError("FP904", f"planner {name} returned {answer['returned']}, must be a Plan", fix="use Plan.of")
    given = {key: answer[key] for key in ("code", "message", "fix")}
    if "binding" in answer:
        raise InfeasiblePlan(
            given["code"],
            given["message"],
            fix=given["fix"],
            binding=tuple(answer["binding"]),
            smallest_budget_bytes=answer["smallest_budget_bytes"],
        )
    raise PluginError(given["code"], f"planner {name}: {given['message']}", fix=given["fix"])


# -- where the planner runs --------------------------------------------------------------------------------------
def _answer(plan: Callable[[], Any]) -> Answer:
    """What a planner answers, as plain data; it may raise anything."""
    try:
        found = plan()
        return {"plan": found.to_json()} if isinstance(found, Plan) else {"returned": type(found).__name__}
    except InfeasiblePlan as refusal:
        numbers = {"binding": list(refusal.binding), "smallest_budget_bytes": refusal.smallest_budget_bytes}
        return {"code": refusal.code, "message": refusal.message, "fix": refusal.fix, **numbers}
    except FlexplanError as error:
        return {"code": error.code, "message": error.message, "fix": error.fix}
    except BaseException as error:
        return {"failure": f"{error!r:.500}"}


def _child() -> None:
    """Answer the request on standard input; what the planner prints goes to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    problem = Problem.model_validate_json(json.dumps(request["problem"]))
    answer = _answer(lambda: make(PLANNERS, request["planner"], **request["options"]).plan(problem))
    with os.fdopen(answers, "w") as out:
        json.dump(answer, out, default=str)
    os._exit(0)  # without waiting for threads that the planner left behind


if __name__ == "__main__":
    _child()
