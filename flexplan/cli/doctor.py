"""What an installation has and lacks, and what that costs: the part that needs no tensor library.

The other part, devices and compilers, is asked of each runtime (`examine`).
"""

from __future__ import annotations

import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from flexplan.errors import FlexplanError
from flexplan.job import Finding, find_runtime
from flexplan.plugins import PLANNERS, RUNTIMES, SCHEDULES, available, load
from flexplan.units import format_size

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)\s*(?P<range>[^;]*)(;.*extra\s*==\s*['\"](?P<extra>\w+)['\"])?")
_BOUND = re.compile(r"(>=|<=|==|!=|<|>)\s*([\w.]+)")
_HOLDS: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}
_WITHOUT_RAY = "run --ray does not work; all else does"
_WITHOUT_RUNTIME = "run, bench, profile and demo do not work; planning does"


def examine() -> tuple[Finding, ...]:
    """Everything that is worth saying when flexplan does not do what it should."""
    parts = (_python(), _packages(), _plugins(), _solver(), _cache(), _memory(), _runtime())
    return tuple(finding for part in parts for finding in part)


def broken(findings: Iterable[Finding]) -> bool:
    """Is something wrong, rather than only absent?"""
    return any(finding.state == "broken" for finding in findings)


def within(found: str, wanted: str) -> bool:
    """Does a version lie in a range?

    >>> within("2.13.0+cpu", ">=2.11,<3"), within("0.15.4", ">=0.16"), within("3", "!=3.0")
    (True, False, False)
    """
    return all(_HOLDS[sign](_numbers(found), _numbers(bound)) for sign, bound in _BOUND.findall(wanted))


def _numbers(text: str) -> tuple[int, ...]:
    parts = [int(re.match(r"\d*", part)[0] or 0) for part in text.partition("+")[0].split(".")]  # type: ignore[index]
    return (*parts, 0, 0, 0, 0)[:4]


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} in {sys.prefix}, {platform.platform()}")


def _packages() -> Iterator[Finding]:
    try:
        needed = requires("flexplan") or []
    except PackageNotFoundError:
        yield Finding("flexplan", "broken", "not installed", "no planner is found; pip install it")
        return
    yield Finding("flexplan", "ok", f"{version('flexplan')} in {Path(__file__).parent}")
    for match in filter(None, map(_REQUIREMENT.match, needed)):
        if match["extra"] in (None, "runtime"):
            yield _package(match["name"], match["range"].strip(), match["extra"] is None)


def _package(name: str, wanted: str, planning: bool) -> Finding:
    costs = "planning does not work" if planning else _WITHOUT_RUNTIME
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "broken" if planning else "missing", f"not installed, wanted {wanted}", costs)
    if within(found, wanted):
        return Finding(name, "ok", f"{found}, wanted {wanted}")
    return Finding(name, "broken", f"{found}, wanted {wanted}", f"{costs}, perhaps")


def _plugins() -> Iterator[Finding]:
    for group in (PLANNERS, SCHEDULES):
        for name in sorted(available(group)):
            try:
                load(group, name)
            except FlexplanError as error:
                yield Finding(f"{group.partition('.')[2][:-1]} {name}", "broken", error.message, error.fix)


def _solver() -> Iterator[Finding]:
    from flexplan.plan import solve
    from flexplan.problem import Problem

    began_s = time.perf_counter()
    try:
        with warnings.catch_warnings(action="ignore"):  # what it says of that plan is of no interest
            solve(Problem.of("facebook/opt-125m", gpu_mem="1G", cpu_mem="2G", prompt_len=16, gen_len=4), "lp")
    except Exception as error:
        yield Finding("solver", "broken", f"{type(error).__name__}: {error}", "solve does not work")
        return
    yield Finding("solver", "ok", f"a small linear program took {time.perf_counter() - began_s:.1f} s")


def _cache() -> Iterator[Finding]:
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flexplan"
    costs = "kernels are compiled anew in each process, or not at all"
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("cache", "broken", f"{path}: {there} may not be written", costs)
    elif there == path and path.stat().st_uid != os.geteuid():
        yield Finding("cache", "broken", f"{path} belongs to user {path.stat().st_uid}", costs)
    else:
        yield Finding("cache", "ok", str(path) if there == path else f"{path}, made on first use")


def _memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("memory", "ok", f"{format_size(total)}, {len(os.sched_getaffinity(0))} cores for this process")


def _runtime() -> Iterator[Finding]:
    for name in sorted(available(RUNTIMES)):
        try:
            runtime = find_runtime(name)
            yield from getattr(runtime, "examine", tuple)()
        except FlexplanError as error:
            absent = error.exit_code == 2
            costs = _WITHOUT_RAY if name == "ray" else _WITHOUT_RUNTIME
            yield Finding(f"runtime {name}", "missing" if absent else "broken", error.message, costs)
