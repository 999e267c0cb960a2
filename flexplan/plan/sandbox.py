"""Planners of other packages in the sandbox, with a time limit: whatever they do, an answer or an error comes back.

A planner known by name runs in a process of its own (see `flexplan.sandbox`), which is killed with all its children at
the limit.  The built-in planners do not run that way.  An instance is the caller's own code and may not survive
pickling: it runs on a thread, which is left behind at the limit.  Where it holds the interpreter (compiled code that
lets no other thread run) no limit can be kept: it has to be given by name.

What comes back is text, the plan's JSON: nothing of the stranger's objects is used.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from flexplan.errors import FlexplanError, InfeasiblePlan, PluginError
from flexplan.files import parse_json
from flexplan.graph import TIERS
from flexplan.limits import MOST_BYTES
from flexplan.plan.plan import Plan
from flexplan.plugins import PLANNERS, make
from flexplan.problem import Problem
from flexplan.sandbox.process import Process
from flexplan.sandbox.supervisor import main, read_request, write_answer

_MOST_BYTES = 4 << 20  # of an answer, beside the problem that it repeats
_BINDING = (*TIERS, "latency", "throughput")

Answer = dict[str, Any]


def answer_by_name(problem: Problem, name: str, options: Mapping[str, Any], timeout_s: float) -> str:
    """The JSON of the plan that an installed planner makes in a process of its own.

    Raises PluginError, which names it, or the InfeasiblePlan that it raised.
    """
    try:
        request = json.dumps({"planner": name, "options": dict(options), "problem": problem.model_dump(mode="json")})
    except TypeError as error:
        raise PluginError("FP902", f"{name} does not take {options}: {error}", fix="give plain data") from None
    most, deadline_s = len(request) + _MOST_BYTES, time.monotonic() + timeout_s
    process = Process("flexplan.plan.sandbox")
    try:
        left_s = max(0.0, deadline_s - time.monotonic())
        written = process.ask(request.encode(), left_s, most, lambda found: False)  # until it ends
    finally:
        process.end()
    if written is None:
        raise too_slow(name, timeout_s)
    return _read(name, bytes(written), most, process.exit_code)


def answer_of_instance(problem: Problem, planner: Any, name: str, timeout_s: float) -> str:
    """The same of an object, on a thread that is left behind where it does not end.

    While it holds the interpreter this function does not run either, and cannot end it.
    """
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
        fix="allow it more with --planner-timeout (timeout_s), or ask another planner",
    )


def failed(name: str, why: str) -> PluginError:
    """The error for a planner that broke down."""
    return PluginError("FP903", f"planner {name} failed: {why}", fix="report it to its author")


def _read(name: str, written: bytes, most_bytes: int, exit_code: int | None) -> str:
    if len(written) > most_bytes:
        raise failed(name, f"its answer is {len(written)} bytes and goes on, allowed {most_bytes}")
    try:
        answer = parse_json(written.decode())
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise failed(name, f"its process ended with exit code {exit_code} and no answer")
    try:
        return _unpack(name, answer)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise failed(name, f"its answer is not one: {error!r:.200}") from None


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
        raise InfeasiblePlan(given["code"], given["message"], fix=given["fix"], **_numbers(name, answer))
    raise PluginError(given["code"], f"planner {name}: {given['message']}", fix=given["fix"])


def _numbers(name: str, answer: Answer) -> dict[str, Any]:
    """What does not fit and what would, if that is what it says."""
    binding, smallest = answer["binding"], answer["smallest_budget_bytes"]
    if not all(what in _BINDING for what in binding) or not all(
        tier in TIERS and (nbytes is None or (type(nbytes) is int and 0 <= nbytes <= MOST_BYTES))
        for tier, nbytes in smallest.items()
    ):
        raise failed(name, f"its refusal is not one: binding {binding!r:.100}, budgets {smallest!r:.200}")
    return {"binding": tuple(binding), "smallest_budget_bytes": smallest}


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


def _work(requests: int, answers: int) -> None:
    """Plan and answer."""
    me, request = os.getpid(), json.loads(read_request(requests) or "null")
    problem = Problem.model_validate_json(json.dumps(request["problem"]))
    answer = _answer(lambda: make(PLANNERS, request["planner"], **request["options"]).plan(problem))
    if os.getpid() == me:  # it may have forked, and returned twice
        write_answer(answers, json.dumps(answer, default=str).encode())


if __name__ == "__main__":
    main(_work)
