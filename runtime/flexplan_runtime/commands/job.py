"""A job: each prompt's completion to its listener, the moment it has ended."""

from __future__ import annotations

import time
from contextlib import closing

from flexplan.errors import NoNumbers
from flexplan.job import Completion, JobListener, JobReport
from flexplan.policy import Policy
from flexplan_runtime.commands.answers import Answers
from flexplan_runtime.commands.identity import settings_of
from flexplan_runtime.commands.prepare import Ready
from flexplan_runtime.commands.recorder import Recorder
from flexplan_runtime.commands.run import Watch, loaded
from flexplan_runtime.generate import OffloadedLM


def run_job(ready: Ready, listener: JobListener) -> JobReport:
    """Load the weights and complete the prompts, until all are done or the listener says to stop."""
    begin_job(ready, listener)
    if not ready.requests:
        return JobReport(0, 0, 0, 0.0, 0.0, {})
    recorder = Recorder(ready.plan()) if ready.request.record else None
    with loaded(ready, listener) as (lm, watch, load_s):
        listener.stage("generating")
        began_s = time.perf_counter()
        prompts, tokens = complete_job(ready, lm, watch, listener, recorder)
        run_s = time.perf_counter() - began_s
        left = len(ready.requests) - prompts
        recording = recorder.recording(ready, watch.samples, tokens, load_s) if recorder else None
        return JobReport(prompts, tokens, left, load_s, run_s, watch.peak_bytes, recording)


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
    ready: Ready, lm: OffloadedLM, watch: Watch, listener: JobListener, recorder: Recorder | None = None
) -> tuple[int, int]:
    """How many requests and new tokens there were."""
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
