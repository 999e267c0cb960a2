"""Schedules of other packages may do what they like: a plan, or an error that names them, comes within their time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import hostile_schedules as hostile
import pytest
from test_hostile_plugins import is_running
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.errors import PluginError
from flexplan.graph import TaskGraph
from flexplan.plan import Plan, simulate, solve
from flexplan.policy import Policy
from flexplan.sandbox import schedule_of
from flexplan.testing import ScheduleContract, policy_with, small_problem
from flexplan.units import MiB

POLICY = policy_with(2, 2, w=(20.0, 60.0), cache=(0.0, 100.0), act=(0.0, 100.0))
PROBLEM = small_problem(gpu_mem=64 * MiB)

NO_GRAPH = {
    "PassesForEver": "more than .* passes",
    "TasksForEver": "more than .* tasks in a pass",
    "TooManyTasks": "more than .* tasks in a pass",
    "Nothing": "NoneType",
    "NoPasses": "no passes",
    "OfAKindOfItsOwn": "kind or lane that nobody knows",
    "OnALaneOfItsOwn": "kind or lane that nobody knows",
    "WorksNan": "work that is none",
    "WorksWithoutEnd": "work that is none",
    "WorksLessThanNothing": "work that is none",
    "OutsideItsSlot": "outside its slot",
    "NobodyInFlight": "live is 0",
    "MillionsInFlight": "live is 1000000000",
    "Elsewhere": "attic",
    "WithoutSlots": "0 offsets",
    "BelowZero": "no memory has",
}
FAILS = {"Raises": "on purpose", "RaisesLater": "ZeroDivisionError", "Exits": "SystemExit"}
ENDS = {
    "Dies": "exit code 0 and no answer",
    "DiesLater": "exit code 0 and no answer",
    "Hogs": "Cannot allocate memory",
    "Scribbles": "answered",
    "NotPlain": "not plain data",
}
RAISES = {"RaisesOurs": ("FP604", "the disk is broken"), "Refuses": ("FP402", "too large for me")}
WRONG = ("TooEarly", "BeyondTheBudget")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``hostile-Raises`` and so on."""
    hostile.install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PIDS_OF_HOSTILE", str(tmp_path / "pids"))
    return tmp_path


def planned(name: str, timeout_s: float = 60.0, policy: Policy = POLICY) -> Plan:
    return solve(PROBLEM, "manual", policy=policy, schedule=f"hostile-{name}", timeout_s=timeout_s)


# -- by name: in a process of their own ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["Honest", "Chatty"])
def test_an_honest_one_plans_as_it_would_here(name: str, installed: Path) -> None:
    plan, here = planned(name), hostile.honest(PROBLEM, POLICY)
    assert plan.graph.to_text() == here.to_text()
    known = solve(PROBLEM, "manual", policy=POLICY, schedule="zigzag").prediction
    assert plan.prediction.total_s == pytest.approx(known.total_s, rel=1e-12)  # sums in another order
    assert plan.prediction.peak_bytes == known.peak_bytes
    for k in range(2):
        sweeps = plan.graph.sweeps(lambda done, k=k: done == k)  # type: ignore[misc]
        expected = here.sweeps(lambda done, k=k: done == k)  # type: ignore[misc]
        assert [(s.i, s.ks, s.tasks) for s in sweeps] == [(s.i, s.ks, s.tasks) for s in expected]
    assert Plan.from_json(plan.to_json()) == plan
    assert simulate(plan).end_s > 0


def test_a_pass_knows_which_micro_batches_have_finished_when_it_begins(installed: Path) -> None:
    finished: set[int] = set()
    sweeps = schedule_of("hostile-Honest").build(PROBLEM, POLICY).sweeps(lambda k: k in finished)
    assert next(sweeps).ks == (0, 1)
    finished.add(0)
    assert next(sweeps).ks == (1,)
    finished.add(1)
    assert next(sweeps, None) is None


@pytest.mark.parametrize("name", NO_GRAPH)
def test_what_is_no_graph_is_said_with_the_schedules_name(name: str, installed: Path) -> None:
    with pytest.raises(PluginError, match=f"schedule hostile-{name} .*{NO_GRAPH[name]}") as error:
        planned(name)
    assert error.value.code == "FP909" and error.value.fix


@pytest.mark.parametrize("name", FAILS | ENDS)
def test_what_breaks_down_is_said_with_the_schedules_name(name: str, installed: Path) -> None:
    with pytest.raises(PluginError, match=rf"schedule hostile-{name} failed: .*{(FAILS | ENDS)[name]}") as error:
        planned(name)
    assert error.value.code == "FP907" and error.value.fix


def test_numbers_that_are_none_are_refused(installed: Path) -> None:
    with pytest.raises(PluginError, match=r"schedule hostile-Fractions .*no whole number"):
        planned("Fractions")


@pytest.mark.parametrize("name", RAISES)
def test_an_error_of_ours_that_it_raises_is_its_own(name: str, installed: Path) -> None:
    code, words = RAISES[name]
    with pytest.raises(PluginError, match=f"schedule hostile-{name}: {words}") as error:
        planned(name)
    assert error.value.code == code


@pytest.mark.parametrize("name", WRONG)
def test_what_the_checker_refuses_is_said_with_the_schedules_name(name: str, installed: Path) -> None:
    with pytest.raises(PluginError, match=f"schedule hostile-{name} made a graph that does not hold up") as error:
        planned(name)
    assert error.value.code == "FP910"


@pytest.mark.parametrize("planner", ["manual", "lp", "search"])
def test_one_that_never_ends_is_stopped(planner: str, installed: Path) -> None:
    began_s = time.monotonic()
    with pytest.raises(PluginError, match="schedule hostile-BuildsForEver gave no answer within 1 s") as error:
        solve(PROBLEM, planner, schedule="hostile-BuildsForEver", timeout_s=1.0)
    assert error.value.code == "FP908" and time.monotonic() - began_s < 20


def test_after_an_error_the_next_graph_is_built_anew(installed: Path) -> None:
    with pytest.raises(PluginError):
        planned("Honest", timeout_s=1e-6)
    assert planned("Honest").schedule == "hostile-Honest"


def test_a_graph_ends_with_its_process(installed: Path) -> None:
    plan = planned("Honest")
    graph = plan.graph
    with pytest.raises(PluginError):
        planned("Honest", timeout_s=1e-6)
    with pytest.raises(PluginError, match="hostile-Honest failed: its process has ended"):
        next(graph.tasks())
    assert plan.graph.live == 2


def test_its_process_outlives_the_thread_that_started_it(installed: Path) -> None:
    found: list[TaskGraph] = []
    thread = threading.Thread(target=lambda: found.append(schedule_of("hostile-Honest").build(PROBLEM, POLICY)))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert found[0].to_text() == hostile.honest(PROBLEM, POLICY).to_text()


def test_what_it_leaves_running_is_ended(installed: Path) -> None:
    assert planned("LeavesAChild").schedule == "hostile-LeavesAChild"
    pid = int((installed / "pids").read_text())
    assert is_running(pid)
    with pytest.raises(PluginError):
        planned("LeavesAChild", timeout_s=1e-6)
    assert not is_running(pid)


def test_what_it_leaves_running_is_ended_without_a_supervisor(installed: Path) -> None:
    with pytest.raises(PluginError, match="schedule hostile-KillsItsSupervisor failed"):
        planned("KillsItsSupervisor")
    assert not is_running(int((installed / "pids").read_text()))


@pytest.mark.parametrize(("name", "words"), [("missing", "does not load"), ("import", "exit code 0 and no answer")])
def test_one_that_does_not_load_is_named(name: str, words: str, installed: Path) -> None:
    with pytest.raises(PluginError, match=rf"hostile-{name}\W.*{words}"):
        planned(name)


@pytest.mark.parametrize("name", ["Dies", "BuildsForEver"])
def test_the_command_line_ends_with_its_code_and_no_plan(name: str, installed: Path) -> None:
    asked = ["solve", "--model", "facebook/opt-125m", "--prompt-len", "16", "--gen-len", "2", "--json"]
    result = CliRunner().invoke(app, [*asked, "--schedule", f"hostile-{name}", "--planner-timeout", "2"])
    assert result.exit_code == 3 and '"plan' not in result.stdout
    assert f"schedule hostile-{name}" in result.stderr and "Traceback" not in result.stderr


def test_a_plan_file_of_one_is_bounded_as_well(installed: Path) -> None:
    text = planned("Honest").to_json().replace("hostile-Honest", "hostile-Dies")
    with pytest.warns(UserWarning, match="edited"), pytest.raises(PluginError, match="hostile-Dies"):
        Plan.from_json(text)


# -- instances: here ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*NO_GRAPH, *FAILS])
def test_an_instance_is_bounded_and_named(name: str) -> None:
    graph = schedule_of(getattr(hostile, name)())
    with pytest.raises(PluginError, match=f"schedule {name} .*{(NO_GRAPH | FAILS)[name]}"):
        for _ in graph.build(PROBLEM, POLICY).tasks():
            pass


def test_an_honest_instance_is_as_it_is() -> None:
    assert schedule_of(hostile.Honest()).build(PROBLEM, POLICY).to_text() == hostile.honest(PROBLEM, POLICY).to_text()


# -- the contract ---------------------------------------------------------------------------------------------------
CONTRACT = {
    **dict.fromkeys((*NO_GRAPH, *FAILS, *WRONG, "Dies", "Exits"), "test_graphs_pass_the_independent_checker"),
    "BuildsForEver": "test_graphs_survive_their_text",
    "LeavesAChild": "test_a_finished_micro_batch_is_left_out",
    "Scribbles": "test_a_finished_micro_batch_is_left_out",
    "RaisesOurs": "test_a_finished_micro_batch_is_left_out",
    "SkipsALayer": "test_every_token_of_every_micro_batch_is_computed_once",
    "RepeatsALayer": "test_every_token_of_every_micro_batch_is_computed_once",
    "LiesWhereItMatters": "test_every_token_of_every_micro_batch_is_computed_once",
    "FewerInFlight": "test_graphs_compute_what_the_mathematics_asks",
    "BeyondTheBudget": "test_graphs_compute_what_the_mathematics_asks",
    "Forgets": "test_equal_problems_get_equal_graphs",
}


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_fails(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIDS_OF_HOSTILE", str(tmp_path / "pids"))

    class Tried(ScheduleContract):
        most_seconds = 1.0 if name == "BuildsForEver" else 60.0

        def make_schedule(self) -> hostile.Honest:
            made: hostile.Honest = getattr(hostile, name)()
            return made

    with pytest.raises(AssertionError, match=r"\w"):
        getattr(Tried(), CONTRACT[name])()
