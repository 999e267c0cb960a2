"""A job: each prompt's completion to its listener, the moment it has ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace

from flexplan.errors import NoNumbers
from flexplan.job import Completion, JobListener, JobReport
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem import Workload
from flexplan_runtime.commands.answers import Answers
from flexplan_runtime.commands.identity import settings_of
from flexplan_runtime.commands.prepare import Ready
from flexplan_runtime.commands.recorder import Recorder, whole_bound
from flexplan_runtime.commands.run import Watch, loaded
from flexplan_runtime.generate import OffloadedLM

_WORTH_A_BOUND_S = 10.0  # a shorter job is over before its bound is known
_MOST_ROWS = 50_000  # whose passes are played on paper for a bound


def run_job(ready: Ready, listener: JobListener) -> JobReport:
    """Load the weights and complete the prompts, until all are done or the listener says to stop."""
    begin_job(ready, listener)
    if not ready.requests:
        return JobReport(0, 0, 0, 0.0, 0.0, {})
    recorder = Recorder(ready.plan()) if ready.request.record else None
    with loaded(ready, listener) as (lm, watch, load_s):
        listener.stage("generating")
        began_s = time.perf_counter()
        lens: dict[tuple[int, int], int] = {}
        prompts, tokens = complete_job(ready, lm, watch, listener, recorder, lens)
        run_s = time.perf_counter() - began_s
        left = len(ready.requests) - prompts
        bound = _bound(ready, lens) if recorder or run_s > _WORTH_A_BOUND_S else (None, "")
        recording = recorder.recording(ready, watch, tokens, load_s, bound) if recorder else None
        peaks, usage = watch.peak_bytes, watch.mean.usage
        return JobReport(prompts, tokens, left, load_s, run_s, peaks, recording, usage, *bound)


def _bound(ready: Ready, lens: Mapping[tuple[int, int], int]) -> tuple[float | None, str]:
    """What no order of the work could beat, for answers as long as they were; of a job that has a plan, and ended."""
    rows = sum(ready.requests.wishes(at).n for at in range(len(ready.requests)))
    if not isinstance(ready.request.policy, Plan) or len(lens) < rows or rows > _MOST_ROWS:
        return None, ""
    plan = ready.plan()
    answers = tuple(max(1, lens[row]) for row in sorted(lens))
    work = Workload(prompt_lens=plan.problem.workload.prompt_lens, gen_lens=answers)
    return whole_bound(replace(plan, problem=plan.problem.model_copy(update={"workload": work})))


def begin_job(ready: Ready, listener: JobListener) -> None:
    """Tell what the answers depend on, and which prompts cannot be run."""
    listener.begin(settings_of(ready))
    tell_refused(ready, listener)


def tell_refused(ready: Ready, listener: JobListener) -> None:
    """Of prompts that cannot be run."""
    for n, place, error in ready.refused:
        prompt = ready.requests.prompts[n]
        listener.failed(place, Completion(prompt.id, prompt.content, (), 0, prompt.api), error)


def complete_job(
    ready: Ready,
    lm: OffloadedLM,
    watch: Watch,
    listener: JobListener,
    recorder: Recorder | None = None,
    lens: dict[tuple[int, int], int] | None = None,
) -> tuple[int, int]:
    """How many requests and new tokens there were; ``lens`` takes the tokens of each answer, by place and choice."""
    requests = tokens = 0
    answers = Answers(ready)

    def stepped(policy: Policy) -> None:
        listener.shrunk(policy)
        if recorder:
            recorder.stepped(policy)

    stream = lm.stream(
        ready.requests,
        ready.request.max_new_tokens,
        sampling=ready.sampling,
        stops=ready.stops,
        numbers=ready.places,
        tokenizer=ready.tokenizer,
        progress=watch,
        stopping=listener.stopping,
        stepped=stepped,
        trace=recorder.trace if recorder else False,
        block_ended=recorder.block_ended if recorder else lambda timeline: None,
    )
    with closing(stream):  # before the model is, whatever the listener raises
        for done in stream:
            if lens is not None:
                lens[done.index, done.choice] = len(done.token_ids)
            completion = answers.of(done)
            if completion is not None:
                _tell(ready, done.index, completion, listener)
                requests, tokens = requests + 1, tokens + completion.num_tokens
    return requests, tokens


def _tell(ready: Ready, place: int, completion: Completion, listener: JobListener) -> None:
    broken = next((choice for choice in completion.choices if choice.finish_reason == "error"), None)
    if broken is None:
        listener.ended(place, completion)
        return
    dtype = str(ready.dtype).removeprefix("torch.")
    message = f"the logits for new token {len(broken.token_ids)} are NaN or infinite in {dtype}"
    fix = "give --dtype bfloat16 or float32, or look for damaged weights"
    listener.failed(place, completion, NoNumbers("FP1102", message, fix=fix))
