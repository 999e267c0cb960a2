"""Jobs that survive: killed, stopped, full disks, two at once; what was finished stays, once and unchanged."""

from __future__ import annotations

import errno
import itertools
import json
import os
import pty
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flexplan_runtime.commands import prepare
from flexplan_runtime.commands import run as commands_run
from injectors import mounted
from job_server import JobServer
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, saved
from typer.testing import CliRunner, Result

from flexplan import signals
from flexplan.cli import launch
from flexplan.cli.app import app

KILLS = int(os.environ.get("FLEXPLAN_KILLS", "15"))
SIGNALS = int(os.environ.get("FLEXPLAN_SIGNALS", "8"))
AT_ONCE = 20  # of either in one test: many are shared by several processes
NUM_PROMPTS = 18
NEW = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("job") / "model"
    saved(CONFIGS["llama"], place)
    return place


@pytest.fixture(scope="module")
def server() -> Iterator[JobServer]:
    found = JobServer()
    yield found
    found.close()


class Job:
    """A directory with prompts, a policy and an output."""

    def __init__(self, place: Path, model: Path, num_prompts: int = NUM_PROMPTS) -> None:
        place.mkdir(exist_ok=True)
        self.place, self.model = place, model
        self.prompts, self.out, self.stderr = place / "in.jsonl", place / "out.jsonl", place / "stderr"
        self.errors = place / "out.errors.jsonl"
        self.policy = place / "policy.json"
        self.policy.write_text(json.dumps({"gpu_batch_size": 2, "num_gpu_batches": 2}))
        self.lines = [
            {"id": f"r{n}", "prompt_ids": [3 + n % 40, 40 + n % 50, 7, *[5] * (n % 3)]} for n in range(num_prompts)
        ]
        self.write()

    def write(self) -> None:
        self.prompts.write_text("".join(json.dumps(one) + "\n" for one in self.lines))

    def args(self, *more: Any, new: int = NEW) -> list[str]:
        base = ["run", self.policy, "--model", self.model, "--prompts", self.prompts, "-o", self.out]
        usual = ["--offload-dir", self.place / "off", "--device", "cpu", "--dtype", "float32"]
        tokens = [] if "--max-new-tokens" in more else ["--max-new-tokens", new]
        return [str(arg) for arg in (*base, *usual, *tokens, *more)]

    def run(self, *more: Any) -> Result:
        return CliRunner().invoke(app, self.args(*more))

    def whole(self) -> list[str]:
        """The lines that are whole."""
        text = self.out.read_bytes() if self.out.exists() else b""
        return [line.decode() for line in text.splitlines(keepends=True) if line.endswith(b"\n")]

    def answers(self) -> dict[str, list[int]]:
        rows = [json.loads(line) for line in self.whole()]
        assert len({row["id"] for row in rows}) == len(rows), "doubled"
        return {row["id"]: row["token_ids"] for row in rows}


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    return Job(tmp_path / "job", model)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, list[int]]:
    job = Job(tmp_path_factory.mktemp("reference") / "job", model)
    assert job.run().exit_code == 0
    return job.answers()


# -- killed and stopped --------------------------------------------------------------------------------------------
def _shared(count: int) -> list[Any]:
    """So many, in parts: the first of each, and how many it has."""
    firsts = range(0, count, AT_ONCE)
    return [pytest.param(first, min(AT_ONCE, count - first), id=f"from-{first}") for first in firsts]


@pytest.mark.parametrize(("first", "most"), _shared(KILLS))
def test_kill_9_at_any_moment_loses_doubles_and_changes_nothing(
    first: int, most: int, tmp_path: Path, model: Path, server: JobServer, expected: dict[str, list[int]]
) -> None:
    rand = random.Random(7 + first)
    warm = Job(tmp_path / "warm", model)
    began_s = time.monotonic()
    server.start(warm.args(), warm.stderr)
    assert server.wait() == 0
    usual_s = time.monotonic() - began_s
    kills, rounds, with_lines = 0, 0, 0
    while kills < most:
        job = Job(tmp_path / f"job{rounds}", model)
        rounds += 1
        for _ in range(rand.randint(1, 4)):
            seen = job.whole()
            pid = server.start(job.args("--resume"), job.stderr)
            moment, lines = rand.uniform(0, 1.1 * usual_s), len(seen) + rand.randint(1, NUM_PROMPTS)
            by_lines, give_up = rand.random() < 0.5, time.monotonic() + 2 * usual_s
            while by_lines and len(job.whole()) < lines and time.monotonic() < give_up:
                time.sleep(0.001)
            time.sleep(0 if by_lines else moment)
            os.kill(pid, signal.SIGKILL)
            killed = server.wait() == -signal.SIGKILL
            kills += killed
            assert job.whole()[: len(seen)] == seen, "lost or changed"
            with_lines += killed and len(job.whole()) > len(seen)
        seen = job.whole()
        server.start(job.args("--resume"), job.stderr)
        assert server.wait() == 0, job.stderr.read_text()
        assert job.whole()[: len(seen)] == seen
        assert job.answers() == expected
        assert not list((job.place / "off").glob("*"))
        shutil.rmtree(job.place)
    assert with_lines >= most // 10  # some came while lines were written


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_ends_after_the_pass_and_a_second_at_once(
    number: int, job: Job, server: JobServer, model: Path
) -> None:
    job = Job(job.place, model, 400)
    pid = server.start(job.args(), job.stderr)
    _until(lambda: len(job.whole()) >= 8)
    os.kill(pid, number)
    assert server.wait() == 75
    said = job.stderr.read_text()
    assert "stopping after this pass" in said and "error[FP1301]" in said and "--resume" in said
    assert "Traceback" not in said and 8 <= len(job.whole()) < 400
    seen = job.whole()
    pid = server.start(job.args("--resume"), job.stderr)
    _until(lambda: len(job.whole()) >= len(seen) + 4)
    os.kill(pid, number)
    os.kill(pid, number)
    assert server.wait() in (128 + number, 75)  # two that come as one are one
    assert job.whole()[: len(seen)] == seen
    server.start(job.args("--resume"), job.stderr)
    assert server.wait() == 0
    assert len(job.answers()) == 400


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals as the program hears them, in this process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # of tests in the background it is ignored
    signals.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize(
    ("number", "where", "step"),
    [
        (signal.SIGTERM, launch, "read_prompts"),
        (signal.SIGINT, launch, "opened"),
        (signal.SIGHUP, prepare, "Tokenizer"),
        (signal.SIGTERM, commands_run, "open_lm"),
    ],
)
def test_a_signal_before_the_first_pass_stops_a_job_too(
    number: int, where: Any, step: str, job: Job, expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(where, step)

    def interrupted(*args: Any, **more: Any) -> Any:
        os.kill(os.getpid(), number)
        return real(*args, **more)

    for flags, say in (((), "--resume"), (("--resume",), "--resume"), (("--overwrite",), "the same command")):
        with monkeypatch.context() as patched:
            patched.setattr(where, step, interrupted)
            ends = list[Result]()
            signals.hearing(lambda flags=flags, ends=ends: ends.append(job.run(*flags)))
        assert ends[0].exit_code == 75, ends[0].output
        assert "FP1301" in ends[0].stderr and say in ends[0].stderr.partition("fix: ")[2]
    assert job.run("--resume").exit_code == 0
    assert job.answers() == expected


@pytest.mark.parametrize(("first", "most"), _shared(SIGNALS))
def test_signals_at_random_moments_leave_a_job_that_goes_on(
    first: int, most: int, job: Job, server: JobServer, expected: dict[str, list[int]]
) -> None:
    rand = random.Random(3 + first)
    for _ in range(most):
        seen = job.whole()
        number = rand.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        pid = server.start(job.args("--resume"), job.stderr)
        time.sleep(rand.uniform(0, 1.0))
        os.kill(pid, number)
        code = server.wait()
        assert code in (0, 75, 128 + number, -number), job.stderr.read_text()  # the last two before it listens
        assert "Traceback" not in job.stderr.read_text() and "FP001" not in job.stderr.read_text()
        assert job.whole()[: len(seen)] == seen
    server.start(job.args("--resume"), job.stderr)
    assert server.wait() == 0
    assert job.answers() == expected


def test_a_terminal_that_closes_ends_a_job_after_its_pass_and_nohup_keeps_it(job: Job, model: Path) -> None:
    """The system sends SIGHUP, and the shell once more."""
    job = Job(job.place, model, 200)
    pid, terminal = _on_a_terminal(job.args())
    _until(lambda: len(job.whole()) >= 4)
    os.close(terminal)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGHUP)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    seen = job.whole()
    assert 4 <= len(seen) < 200
    pid, terminal = _on_a_terminal(job.args("--resume"), nohup=True)
    _until(lambda: len(job.whole()) > len(seen))
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert job.whole()[: len(seen)] == seen and len(job.answers()) == 200


def _on_a_terminal(args: list[str], *, nohup: bool = False) -> tuple[int, int]:
    """A process whose terminal it is, and the other end of that."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
        code = "import sys; sys.argv[0] = 'flexplan'; from flexplan.cli.app import main; main()"
        paths = os.pathsep.join(filter(None, sys.path))
        os.execve(sys.executable, [sys.executable, "-c", code, *args], os.environ | {"PYTHONPATH": paths})
    return pid, terminal


def _until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_a_second_run_of_one_output_is_refused_with_who_holds_it(job: Job, server: JobServer, model: Path) -> None:
    job = Job(job.place, model, 400)
    pid = server.start(job.args(), job.stderr)
    _until(lambda: len(job.whole()) >= 2)
    for how in ((), ("--resume",), ("--overwrite",)):
        second = job.run(*how)
        assert second.exit_code == 8 and "FP1201" in second.stderr
        assert f"process {pid} on " in second.stderr and " since 20" in second.stderr
    (job.place / "link.jsonl").symlink_to(job.out)
    (job.place / "hard.jsonl").hardlink_to(job.out)
    for other, how in itertools.product(("link.jsonl", "hard.jsonl"), ("--resume", "--overwrite")):
        assert CliRunner().invoke(app, [*job.args(how), "-o", str(job.place / other)]).exit_code == 8, (other, how)
    os.kill(pid, signal.SIGKILL)
    server.wait()
    seen = job.whole()
    assert job.run("--resume").exit_code == 0  # the lock has died with its holder
    assert job.whole()[: len(seen)] == seen and len(job.answers()) == 400


# -- gone on with --------------------------------------------------------------------------------------------------
def test_resume_begins_what_is_not_there_and_computes_nothing_twice(
    job: Job, expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexplan_runtime.generate import placed

    assert job.run("--resume").exit_code == 0
    assert job.answers() == expected
    before = job.out.read_bytes()

    def refuse(*args: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(placed, "load_weights", refuse)
    assert job.run("--resume").exit_code == 0
    assert job.out.read_bytes() == before
    refused = job.run()
    assert refused.exit_code == 2 and "FP170" in refused.stderr and "--resume" in refused.stderr


def test_appended_prompts_are_taken_up_and_put_in_order(job: Job, expected: dict[str, list[int]]) -> None:
    whole = list(job.lines)
    job.lines = whole[:7]
    job.write()
    assert job.run("--resume").exit_code == 0
    first = job.whole()
    job.lines = whole
    job.write()
    assert job.run("--resume").exit_code == 0
    assert job.whole()[:7] == first and job.answers() == expected
    assert job.run("--resume", "--ordered").exit_code == 0
    assert list(job.answers()) == list(expected)
    assert job.run("--resume").exit_code == 0  # the log knows the new order


def test_a_row_that_ends_late_is_put_in_order(job: Job) -> None:
    """Where an end token stops some rows early, lines come in another order than the prompts."""
    assert job.run().exit_code == 0
    stop = job.answers()["r5"][0]
    model = job.place / "stops"
    shutil.copytree(job.model, model)
    for name in ("config.json", "generation_config.json"):
        if (model / name).exists():
            config = json.loads((model / name).read_text())
            (model / name).write_text(json.dumps(config | {"eos_token_id": stop}))
    job.model = model
    assert job.run("--overwrite").exit_code == 0
    came = list(job.answers())
    rows = {row["id"]: row for row in map(json.loads, job.whole())}
    assert rows["r5"]["finish_reason"] == "stop" and came != [one["id"] for one in job.lines]
    assert job.run("--overwrite", "--ordered").exit_code == 0
    assert list(job.answers()) == [one["id"] for one in job.lines]
    assert {row["id"]: row for row in map(json.loads, job.whole())} == rows


@pytest.mark.parametrize("tail", [b'{"id": "r9", "tok', b"\x00" * 40, b'{"id": "r9"}\n'])
def test_a_tail_that_the_job_did_not_write_is_dropped(job: Job, tail: bytes, expected: dict[str, list[int]]) -> None:
    assert job.run().exit_code == 0
    before = job.out.read_bytes()
    with job.out.open("ab") as file:
        file.write(tail)
    assert job.run("--resume").exit_code == 0
    assert job.out.read_bytes() == before and job.answers() == expected


def test_what_was_altered_or_removed_is_an_error_and_is_not_touched(job: Job) -> None:
    assert job.run().exit_code == 0
    lines = job.whole()
    job.out.write_text("".join(lines[:3] + lines[4:]))
    result = job.run("--resume")
    assert result.exit_code == 6 and "FP618" in result.stderr and "line 4" in result.stderr
    assert job.whole() == lines[:3] + lines[4:]
    job.out.unlink()
    result = job.run("--resume")
    assert result.exit_code == 6 and "removed" in result.stderr and not job.out.exists()
    job.out.write_text("mine\n")
    (job.place / "out.jsonl.job").unlink()
    result = job.run("--resume")
    assert result.exit_code == 2 and "FP174" in result.stderr and job.out.read_text() == "mine\n"
    assert job.run("--overwrite").exit_code == 0
    assert job.whole() == lines


@pytest.mark.parametrize("how", [(), ("--retry-failed",)])
@pytest.mark.parametrize("empty", [False, True])
def test_where_the_failed_ones_are_gone_they_are_tried_again(
    empty: bool, how: tuple[str, ...], job: Job, expected: dict[str, list[int]]
) -> None:
    job.lines[2]["prompt_ids"], job.lines[5]["prompt_ids"] = [], [1 << 20]
    job.write()
    assert job.run().exit_code == 5
    seen, failed = job.whole(), job.errors.read_bytes()
    job.errors.write_bytes(b"") if empty else job.errors.unlink()
    result = job.run("--resume", *how)
    assert result.exit_code == 5 and "its 2 requests are tried again" in result.stderr
    assert job.whole() == seen and job.errors.read_bytes() == failed
    job.errors.write_bytes(failed[: len(failed) // 2])  # of what was altered nobody knows what it is to be
    result = job.run("--resume", *how)
    assert result.exit_code == 6 and "FP618" in result.stderr and "remove that file" in result.stderr
    assert job.errors.read_bytes() == failed[: len(failed) // 2]
    job.errors.unlink()
    assert job.run("--resume", *how).exit_code == 5
    assert job.whole() == seen and job.errors.read_bytes() == failed


def _other_weights(job: Job) -> None:
    file = job.model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, file, metadata={"format": "pt"})


def _other_model(job: Job) -> None:
    config = json.loads((job.model / "config.json").read_text())
    (job.model / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))


def _other_template(job: Job) -> None:
    (job.model / "chat_template.jinja").write_text("{{ messages[0].content }}")


def _other_prompt(job: Job) -> None:
    job.lines[4]["prompt_ids"] = [9, 9, 9]
    job.write()


def _other_wish(job: Job) -> None:
    job.lines[4]["seed"] = 5
    job.write()


def _fewer_prompts(job: Job) -> None:
    job.lines = job.lines[:5]
    job.write()


@pytest.mark.parametrize(
    ("change", "flags", "code", "words"),
    [
        (_other_weights, (), "FP176", ["weights: was"]),
        (_other_model, (), "FP176", ["model: was"]),
        (None, ("--max-new-tokens", 5), "FP176", ["max_new_tokens: was 6, is 5"]),
        (None, ("--do-sample", "--seed", 3), "FP176", ["sampling: was greedy, is temperature 1.0, seed 3"]),
        (None, ("--seed", 3), "FP176", ["sampling: was greedy, is greedy, drawn lines by seed 3"]),
        (_other_template, (), "FP176", ["tokenizer: was"]),
        (None, ("--dtype", "bfloat16"), "FP176", ["dtype: was float32, is bfloat16"]),
        (_other_prompt, (), "FP178", ["by place from 0 on: 4"]),
        (_other_wish, (), "FP178", ["by place from 0 on: 4"]),
        (_fewer_prompts, (), "FP177", ["there are 5", "place 17"]),
    ],
)
def test_another_job_is_refused_by_what_differs(
    job: Job, change: Callable[[Job], None] | None, flags: tuple[Any, ...], code: str, words: list[str]
) -> None:
    model = job.place / "own"
    shutil.copytree(job.model, model)
    job.model = model
    assert job.run().exit_code == 0
    before = job.out.read_bytes()
    if change:
        change(job)
    result = job.run("--resume", *flags)
    assert result.exit_code == 2 and code in result.stderr, result.output
    assert all(word in result.stderr for word in words), result.stderr
    others = {"model", "weights", "tokenizer", "dtype", "max_new_tokens", "sampling", "stop"}
    named = {name for name in others if f"{name}: was" in result.stderr}
    assert named == {word.partition(":")[0] for word in words if ": was" in word}
    assert job.out.read_bytes() == before


def test_another_policy_a_moved_model_and_another_place_are_the_same_job(
    job: Job, expected: dict[str, list[int]]
) -> None:
    whole = list(job.lines)
    job.lines = whole[:5]
    job.write()
    assert job.run().exit_code == 0
    job.lines = whole
    job.write()
    moved = job.place / "moved"
    shutil.copytree(job.model, moved)
    job.model = moved
    job.policy.write_text(json.dumps({"gpu_batch_size": 3, "num_gpu_batches": 1, "w_gpu_percent": 50}))
    assert job.run("--resume").exit_code == 0
    assert job.answers() == expected


# -- requests that fail --------------------------------------------------------------------------------------------
def test_bad_requests_fail_alone(job: Job, expected: dict[str, list[int]]) -> None:
    job.write()
    lines = job.prompts.read_text().splitlines()
    bad = {2: '{"id": "x", "prompt_ids": [1', 5: '{"id": "y", "prompt_ids": [1], "colour": "red"}'}
    bad |= {9: json.dumps({"id": "long", "prompt_ids": [3] * 100_000}), 11: '{"id": "other", "prompt_ids": [10000000]}'}
    bad |= {13: '{"prompt_ids": []}'}
    for place, line in bad.items():
        lines.insert(place, line)
    job.prompts.write_text("\n".join(lines))
    result = job.run()
    assert result.exit_code == 5 and "FP1401" in result.stderr and "5 of 23 prompts" in result.stderr
    assert job.answers() == expected
    failed = [json.loads(line) for line in job.errors.read_text().splitlines()]
    assert {row["error"]["code"] for row in failed} == {"FP312", "FP319", "FP304", "FP305"}
    assert {row["id"] for row in failed} >= {"long", "other", "y"}
    again = job.run("--resume")
    assert again.exit_code == 5 and "earlier runs" in again.stderr
    kept = job.errors.read_bytes()
    assert len(kept.splitlines()) == 5
    strict = job.run("--resume", "--strict")
    assert strict.exit_code == 2 and "line 3" in strict.stderr and job.errors.read_bytes() == kept
    for place in (9, 11):
        lines[place] = json.dumps({"id": f"good{place}", "prompt_ids": [8, 9]})
    job.prompts.write_text("\n".join(lines))
    again = job.run("--resume")
    assert again.exit_code == 5 and "3 of 23" in again.stderr
    assert {"good9", "good11"} <= job.answers().keys() and len(job.errors.read_text().splitlines()) == 3
    strict = job.run("--strict", "--overwrite")
    assert strict.exit_code == 2 and "line 3" in strict.stderr


def test_a_failed_request_behind_all_others_may_be_left_out(job: Job, expected: dict[str, list[int]]) -> None:
    whole = list(job.lines)
    job.lines = [*whole, {"id": "bad"}]
    job.write()
    assert job.run().exit_code == 5
    job.lines = whole
    job.write()
    assert job.run("--resume").exit_code == 0
    assert job.answers() == expected and job.errors.read_text() == ""


def test_retry_failed_tries_them_again(
    job: Job, expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexplan_runtime.execute import Sampling

    real = Sampling.choose

    def broken(self: Sampling, logits: Any, rows: Any, step: int) -> Any:
        chosen = real(self, logits, rows, step)
        return chosen.masked_fill(chosen.new_tensor([row in (3, 8) and step == 2 for row in rows]).bool(), -1)

    with monkeypatch.context() as patched:
        patched.setattr(Sampling, "choose", broken)
        result = job.run()
    assert result.exit_code == 5 and "2 of 18" in result.stderr and "'r3', id 'r8'" in result.stderr
    failed = [json.loads(line) for line in job.errors.read_text().splitlines()]
    assert [(row["id"], len(row["token_ids"]), row["error"]["code"]) for row in failed] == [
        ("r3", 2, "FP1102"),
        ("r8", 2, "FP1102"),
    ]
    assert job.run("--resume").exit_code == 5
    assert job.run("--resume", "--retry-failed").exit_code == 0
    assert job.answers() == expected and job.errors.read_text() == ""


# -- flags and streams ---------------------------------------------------------------------------------------------
def test_flags_that_cannot_go_together_are_refused(job: Job) -> None:
    for flags, code in (
        (("--resume", "--overwrite"), "FP175"),
        (("--retry-failed",), "FP179"),
        (("--prompt-len", 5), "FP165"),
        (("--resume", "-o", "-"), "FP180"),
        (("--ordered", "-o", "/dev/null"), "FP180"),
    ):
        result = job.run(*flags)
        assert result.exit_code == 2 and code in result.stderr, result.output
        assert not job.out.exists() and not (job.place / "out.jsonl.job").exists()


def test_no_prompts_after_some_were_finished_is_another_job(job: Job) -> None:
    assert job.run().exit_code == 0
    before = job.out.read_bytes()
    job.prompts.write_text("")
    assert job.run("--resume").exit_code == 2
    assert job.out.read_bytes() == before
    fresh = Job(job.place / "fresh", job.model, 0)
    assert fresh.run("--resume").exit_code == 0 and fresh.out.read_bytes() == b""


def test_a_closed_standard_output_and_error_do_not_end_a_job(job: Job, expected: dict[str, list[int]]) -> None:
    import subprocess
    import sys

    program = "import sys; sys.argv[0] = 'flexplan'; from flexplan.cli.app import main; main()"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    line = '"$@" >&- 2>&-'
    subprocess.run(["bash", "-c", line, "-", sys.executable, "-c", program, *job.args()], check=True, env=env)
    assert job.answers() == expected


def test_files_beside_an_output_are_no_inputs_either(job: Job) -> None:
    """Failed requests given as the prompts of a new run would be gone before they are read again."""
    job.write()
    for beside in (job.errors, job.place / "out.jsonl.job"):
        shutil.copy(job.prompts, beside)
        before = beside.read_bytes()
        result = CliRunner().invoke(app, [*job.args("--overwrite"), "--prompts", str(beside)])
        assert result.exit_code == 2 and "FP171" in result.stderr
        assert beside.read_bytes() == before


def test_a_file_that_is_no_log_of_ours_is_left_alone(job: Job, expected: dict[str, list[int]]) -> None:
    log = job.place / "out.jsonl.job"
    log.write_text("my notes\n")
    for how in ((), ("--overwrite",), ("--resume",)):
        result = job.run(*how)
        assert result.exit_code == 2 and "FP135" in result.stderr
        assert log.read_text() == "my notes\n" and not job.out.exists()
    for torn in (b"", b"12ab", bytes(40)):  # what the loss of power leaves of one that was just begun
        log.write_bytes(torn)
        assert job.run("--resume").exit_code == 0 and job.answers() == expected
        job.out.unlink()


def test_no_two_outputs_share_a_file_beside_them(job: Job) -> None:
    job.lines.append({"id": "bad"})
    job.write()
    plain = job.place / "out"
    assert job.run("-o", plain).exit_code == job.run().exit_code == 5
    assert (job.place / "out.errors").read_text() == job.errors.read_text() != ""
    for taken in ("out.errors", "out.errors.jsonl", "out.jsonl.job"):
        result = job.run("--overwrite", "-o", job.place / taken)
        assert result.exit_code == 2 and "FP136" in result.stderr
    assert job.run("--resume").exit_code == 5


@pytest.mark.parametrize("name", ["out.jsonl.job", "out.errors.jsonl"])
def test_what_is_taken_away_while_a_run_is_at_work_is_not_lost(
    name: str, job: Job, expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is put back; failed requests are kept elsewhere, as the output is."""
    from flexplan.journal import journal

    monkeypatch.setattr(journal, "SYNC_EVERY_S", 0.0)
    real, written = journal.Journal.finish, []

    def finish(self: Any, number: int, *more: Any) -> None:
        real(self, number, *more)
        written.append(number)
        if len(written) == 4:
            (job.place / name).unlink()

    monkeypatch.setattr(journal.Journal, "finish", finish)
    job.lines.append({"id": "bad"})
    job.write()
    result = job.run()
    if name.endswith(".job"):
        assert result.exit_code == 5 and "it is put back" in result.stderr
        assert job.answers() == expected and job.run("--resume").exit_code == 5
        return
    assert result.exit_code == 6 and "FP617" in result.stderr and "the file of failed requests" in result.stderr
    kept = Path(next(iter(result.stderr.partition("is kept in ")[2].splitlines())))
    assert json.loads(kept.read_text())["id"] == "bad" and job.answers() == expected


def test_a_directory_for_packed_weights_is_refused_where_none_are(job: Job) -> None:
    for flags in ((), ("--dummy",)):
        result = job.run("--packed-cache", job.place / "packed", *flags)
        assert result.exit_code == 2 and "FP139" in result.stderr and not job.out.exists()


# -- full disks ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", ["write", "fsync"])
def test_a_disk_that_fails_at_any_call_stops_with_6_and_goes_on(
    name: str, code: int, job: Job, expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexplan.journal import journal, store

    for interval in ("SYNC_EVERY_S", "_MOST_S"):  # however slow the machine is, one run makes the calls of another
        monkeypatch.setattr(journal, interval, 3600.0)
    real = getattr(os, name)
    count = [0]
    at = [-1]

    def fail(*args: Any) -> Any:
        count[0] += 1
        if 0 <= at[0] < count[0]:
            raise OSError(code, os.strerror(code))
        return real(*args)

    class Failing:
        def __getattr__(self, asked: str) -> Any:
            return fail if asked == name else getattr(os, asked)

    monkeypatch.setattr(store, "os", Failing())
    assert job.run().exit_code == 0
    calls = count[0]
    for call in sorted({0, 1, 2, 3, calls // 2, calls - 2, calls - 1}):
        for one in (job.out, job.errors, job.place / "out.jsonl.job"):
            one.unlink(missing_ok=True)
        count[0], at[0] = 0, call
        result = job.run()
        assert result.exit_code == 6 and "FP616" in result.stderr, (call, calls, result.output)
        assert "Traceback" not in result.output and "FP001" not in result.output
        at[0] = -1
        seen = job.whole()
        resumed = job.run("--resume")
        assert resumed.exit_code == 0, (call, resumed.output)
        assert job.whole()[: len(seen)] == seen and job.answers() == expected


def test_writes_that_fall_short_are_finished(
    job: Job, expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexplan.journal import store

    class Short:
        def __getattr__(self, asked: str) -> Any:
            return (lambda fd, data: os.write(fd, data[:3])) if asked == "write" else getattr(os, asked)

    monkeypatch.setattr(store, "os", Short())
    assert job.run().exit_code == 0
    assert job.answers() == expected


def test_a_full_file_system_stops_with_6_and_goes_on_when_there_is_room(tmp_path: Path, model: Path) -> None:
    job, whole = Job(tmp_path / "job", model, 160), Job(tmp_path / "whole", model, 160)
    assert whole.run().exit_code == 0
    with mounted(tmp_path / "small", 256 << 10) as small:
        job.out = small / "out.jsonl"
        filler = small / "filler"
        filler.write_bytes(bytes(os.statvfs(small).f_bavail * os.statvfs(small).f_frsize - (28 << 10)))
        result = job.run()
        assert result.exit_code == 6 and "No space left" in result.stderr and "--resume" in result.stderr
        assert 0 < len(job.answers()) < 160
        again = job.run("--resume")
        assert again.exit_code == 6 and "FP001" not in again.stderr
        filler.unlink()
        assert job.run("--resume").exit_code == 0
        assert job.answers() == whole.answers()
