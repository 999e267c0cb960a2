"""Planners of other packages run apart, with a time limit: whatever they do, an answer or an error comes back.

A planner known by name runs in a process of its own, which is killed with all its children at the limit: only
that stops a loop in compiled code, an endless allocation or a fork, and a fresh process shares no locks with
this one.  It costs a third of a second, so the built-in planners do not run that way.  An instance is the
caller's own code and may not survive pickling: it runs on a thread, which is left behind at the limit.  Where it
holds the interpreter (compiled code that lets no other thread run) no limit can be kept: it has to be given by name.

What comes back is text, the plan's JSON: nothing of the stranger's objects is used.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexplan.errors import FlexplanError, InfeasiblePlan, PluginError
from flexplan.files import parse_json
from flexplan.plan.plan import Plan
from flexplan.plugins import PLANNERS, make
from flexplan.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_BYTES = 4 << 20  # of an answer, beside the problem that it repeats
_GRACE_S = 5.0  # to end what was started
_LAST_WORDS_S = 1.0
_POLL_S = 0.01
_PARENT_DEATH, _SUBREAPER = 1, 36  # of prctl

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
        bufsize=0,
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
    ) as child:
        try:
            written = _converse(child, request.encode(), time.monotonic() + timeout_s)
        finally:
            _end(child)
    if written is None:
        raise too_slow(name, timeout_s)
    return _read(name, written, len(request) + _MOST_BYTES, child.returncode)


def _converse(child: subprocess.Popen[bytes], request: bytes, deadline_s: float) -> bytes | None:
    """The answer to a request, no more of it than is allowed and a byte; None where the deadline came first.

    Standard input stays open: where it ends, this process has, and what it started ends itself.
    """
    assert child.stdin and child.stdout
    unsent = memoryview(f"{len(request)}\n".encode() + request)
    most, found = len(request) + _MOST_BYTES, b""
    os.set_blocking(child.stdin.fileno(), False)
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdin, selectors.EVENT_WRITE)
        ready.register(child.stdout, selectors.EVENT_READ)
        while len(found) <= most and (left_s := deadline_s - time.monotonic()) > 0:
            for key, _ in ready.select(left_s):
                if key.fileobj is child.stdin:
                    unsent = unsent[_sent(child.stdin.fileno(), unsent) :]
                    if not unsent:
                        ready.unregister(child.stdin)
                    continue
                more = os.read(child.stdout.fileno(), 1 << 16)
                found += more
                if not more:
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(_LAST_WORDS_S)  # its exit code says how it ended
                    return found
    return found if len(found) > most else None


def _sent(descriptor: int, unsent: memoryview) -> int:
    try:
        return os.write(descriptor, unsent)
    except BrokenPipeError:
        return len(unsent)  # it has ended: its exit code says why


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


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child and all that it started: what it left running would go on for nobody."""
    assert child.stdin
    child.stdin.close()
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _read(name: str, written: bytes, most_bytes: int, exit_code: int) -> str:
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
    except (KeyError, TypeError, ValueError) as error:
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


def _supervise() -> None:
    """Answer the request on standard input in a child, and end with it all that it started.

    The planner's code runs in the child only.  Its orphans become children of this process, however they left;
    it ends them when the answer is there, when its own parent is gone, or when it is told to.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(_PARENT_DEATH, signal.SIGTERM, 0, 0, 0)  # where a copy of the pipe outlives the parent
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: ended.append(n))
    request = _request()
    worker = os.fork()
    if not worker:
        libc.prctl(_PARENT_DEATH, signal.SIGKILL, 0, 0, 0)
        _work(request)
    os.close(1)
    code = 0
    while not ended and not select.select([0], [], [], _POLL_S)[0]:
        pid, status = os.waitpid(worker, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            break
    _end_children()
    os._exit(code if code >= 0 else 128 - code)


def _request() -> dict[str, Any]:
    """What stands on standard input: its length, then JSON; more than that is never read."""
    digits = b""
    while not digits.endswith(b"\n"):
        digits += os.read(0, 1) or os._exit(1)
    text = b""
    while len(text) < int(digits):
        text += os.read(0, int(digits) - len(text)) or os._exit(1)
    found: dict[str, Any] = json.loads(text)
    return found


def _end_children() -> None:
    """Kill until nothing is left: the children of what is killed come here."""
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        children = _children()
        if not children:
            return
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _children() -> list[int]:
    """The processes whose parent this is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found


def _work(request: Mapping[str, Any]) -> None:
    """Plan and answer; what the planner prints goes to standard error."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this process is to go first
    answers, me = os.dup(1), os.getpid()
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    problem = Problem.model_validate_json(json.dumps(request["problem"]))
    answer = _answer(lambda: make(PLANNERS, request["planner"], **request["options"]).plan(problem))
    if os.getpid() == me:  # it may have forked, and returned twice
        with os.fdopen(answers, "w") as out:
            json.dump(answer, out, default=str)
    os._exit(0)  # without waiting for threads that the planner left behind


if __name__ == "__main__":
    _supervise()
