"""Launching a job: what the commands that need a runtime do around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from flexplan import signals
from flexplan.cli.outcome import stopped
from flexplan.cli.output import deliver, refuse_existing, refuse_unwritable
from flexplan.cli.progress import Progress, note
from flexplan.cli.results import Results, Target, opened
from flexplan.errors import FlexplanError, RequestsFailed, UsageError
from flexplan.hardware import Hardware
from flexplan.job import (
    BenchReport,
    Completion,
    DemoReport,
    JobReport,
    Pace,
    RunRequest,
    find_runtime,
    record_text,
    refuse_idle_sampling,
)
from flexplan.journal import errors_path, request_digest
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem.prompts import BadLine, Lengths, Prompts, read_lengths, read_prompts
from flexplan.report.objects import bad_line, completion_line, failure_line, summary
from flexplan.report.openai_objects import answer_line, bad_batch_line, error_line

_LINE_BYTES = 90  # of an output line, beside the prompt and its answer
_MOST_NAMED = 10  # of failed requests, at the end


# -- run ---------------------------------------------------------------------------------------------------------
def run_to_file(
    request: RunRequest, prompts: str | None, target: Target, form: str = "auto", *, record: Path | None = None
) -> None:
    """Read the prompts, run them and write one JSON line each, the moment it has ended; then what is recorded."""
    target.refuse_contradictions()
    given = None if prompts is None else read_prompts(prompts, form, strict=request.strict)
    refuse_idle_sampling(request, given)
    bad: Sequence[BadLine] = () if given is None else given.bad
    _refuse_output(target, given)
    if bad and not given:
        raise bad[0].error
    if given is not None and not given:
        _write_nothing(target)
        return
    if given:
        request = replace(request, prompts=given, places=given.places)
    digests = None if given is None else Digests(given)
    with opened(target, digests, (request.offload_dir,)) as results:
        job = _Job(results, bad, request)
        report = _run(replace(request, skip=results.done, block=results.block(job.policy)), job)
    if record is not None:
        _write_record(report, record, (request.offload_dir,))
    _say_end(report, job, target, len(digests) if digests else report.num_prompts)


def _write_record(report: JobReport, record: Path, places: Iterable[Path]) -> None:
    if report.recording is None or not report.recording.num_blocks:
        note(f"no block has ended: nothing is recorded in {record}")
        return
    deliver(record, record_text(report.recording), places)


def _refuse_output(target: Target, prompts: Prompts | None) -> None:
    """Raise what can be known before the work; an answer repeats its prompt."""
    known = prompts is not None and not target.resume
    at_least_bytes = prompts.num_characters + len(prompts) * _LINE_BYTES if known and prompts else 0
    refuse_unwritable(target.path, target.inputs, at_least_bytes)
    for beside in target.files[1:]:
        refuse_unwritable(beside, target.inputs)


def _write_nothing(target: Target) -> None:
    if target.resume:
        with opened(target, {}):  # or a finished one is gone
            pass
    elif not target.overwrite:
        refuse_existing(target.path)
    note("there are no prompts")
    if not target.resume or not target.path.exists():
        deliver(target.path, "")


class Digests(Mapping[int, str]):
    """What each request asks for, in short, by its place; those of prompts are looked up where they are kept."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts

    def __getitem__(self, place: int) -> str:
        found, at = self._prompts.holder_of(place)  # of a request that the input no longer has: a KeyError
        return found.digest(at)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self._prompts) + len(self._prompts.bad)


def _policy_digest(request: RunRequest) -> str:
    policy = request.policy.policy if isinstance(request.policy, Plan) else request.policy
    return request_digest([asdict(policy)])


def _run(request: RunRequest, job: _Job) -> JobReport:
    """Until all is done, or a first signal says to stop."""
    with job:
        report = find_runtime("ray" if request.cluster else "torch").run(request, job)
        job.results.end()
        return report


class _Job(Progress):
    """Listens to a runtime: progress to people, requests to the results."""

    def __init__(self, results: Results, bad: Sequence[BadLine], request: RunRequest) -> None:
        given, count = request.policy, max(0, len(request.prompts) - len(results.done))
        super().__init__(Pace.of(given if isinstance(given, Plan) else None, count), count)
        self.results = results
        self.bad, self.prompts = bad, request.prompts
        self.policy = _policy_digest(request)
        self.model = Path(request.model).name
        self.failures: list[str] = []  # the first of this run, by name

    def begin(self, settings: Mapping[str, str]) -> None:
        self.results.begin(settings)
        done = self.results.done
        for line in self.bad:
            if line.place not in done:
                text = bad_line(line) if line.api == "own" else bad_batch_line(line)
                self._fail(line.place, f"line {line.line}", text)

    def tokens(self, done: int, total: int) -> None:
        super().tokens(done, total)
        self.results.tick()

    def ended(self, place: int, completion: Completion) -> None:
        self.num_ended += 1
        own = completion.api == "own"
        line = completion_line(completion) if own else answer_line(completion, place, self.model)
        self.results.finish(place, line)

    def failed(self, place: int, completion: Completion, error: FlexplanError) -> None:
        own = completion.api == "own"
        line = failure_line(completion, error) if own else self._error_line(place, completion, error)
        self.num_ended += 1
        self._fail(place, f"id {completion.id!r}", line)

    def shrunk(self, policy: Policy) -> None:
        self.results.shrink(self.policy, (policy.gpu_batch_size, policy.num_gpu_batches))

    def stopping(self) -> bool:
        return signals.stop_after_pass()

    def _error_line(self, place: int, completion: Completion, error: FlexplanError) -> str:
        number = self.prompts.at_place(place).number if isinstance(self.prompts, Prompts) else None
        return error_line(completion.id, place, number, error)

    def _fail(self, place: int, name: str, line: str) -> None:
        self.results.fail(place, line)
        if len(self.failures) <= _MOST_NAMED:
            self.failures.append(name[:60])


def _say_end(report: JobReport, job: _Job, target: Target, total: int) -> None:
    """The summary; raises Stopped or RequestsFailed, the results being written."""
    if report.num_prompts:
        note(summary(report))
    if report.num_left:
        state = f"{report.num_left:,} requests are left, all others are kept in {target.path}"
        raise stopped("go on with --resume", state)
    if job.results.num_failed:
        _refuse_failed(job, target, total)


def _refuse_failed(job: _Job, target: Target, total: int) -> NoReturn:
    count, new = job.results.num_failed, job.failures
    which = (
        ", ".join(new[:_MOST_NAMED]) + (", ..." if len(new) > _MOST_NAMED else "")
        if new
        else "all of them in earlier runs"
    )
    kept = errors_path(target.path.resolve()) if job.results.resumable else target.path
    raise RequestsFailed(
        "FP1401",
        f"{count:,} of {total:,} prompts could not be completed: {which}; {kept} says why, all others are whole",
        fix="correct them, and go on with --resume (--retry-failed for those that are as they were)",
    )


# -- bench and demo ----------------------------------------------------------------------------------------------
def dummy_lengths(
    table: str | None, most: int | None, prompt_len: int | None, max_new_tokens: int | None
) -> Lengths | None:
    """The lengths of random prompts and their answers by a table, if there is one."""
    if table is None:
        if most is not None:
            raise UsageError("FP196", "--num-prompts without --lengths would change nothing", fix="add --lengths")
        return None
    if prompt_len is not None or max_new_tokens is not None:
        flag = "--prompt-len" if prompt_len is not None else "--max-new-tokens"
        message = f"--lengths {table} says how long prompts and answers are, {flag} too"
        raise UsageError("FP198", message, fix=f"leave {flag} out")
    return read_lengths(table, most)


def bench(request: RunRequest, hardware: Hardware | None) -> BenchReport:
    """One block, predicted and measured."""
    given = request.policy
    with Progress(Pace.of(given, given.policy.block_size) if isinstance(given, Plan) else None) as progress:
        return find_runtime().bench(request, hardware, progress)


def demo() -> DemoReport:
    """The embedded model, from plan to tokens."""
    with Progress() as progress:
        return find_runtime().demo(note, progress)
