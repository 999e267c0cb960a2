"""A job: each prompt's completion to its listener, the moment it has ended."""

from __future__ import annotations

import time
from contextlib import closing

from flexplan.errors import NoNumbers
from flexplan.job import Completion, JobListener, JobReport
from flexplan.problem import Prompt
from flexplan_runtime.commands.identity import settings_of
from flexplan_runtime.commands.prepare import Ready
from flexplan_runtime.commands.run import Watch, open_lm
from flexplan_runtime.generate import Done, OffloadedLM


def run_job(ready: Ready, listener: JobListener) -> JobReport:
    """Load the weights and complete the prompts, until all are done or the listener says to stop."""
    begin_job(ready, listener)
    if not ready.places:
        return JobReport(0, 0, 0, 0.0, 0.0, {})
    began_s = time.perf_counter()
    listener.stage("loading weights")
    with open_lm(ready) as lm:
        loaded_s = time.perf_counter()
        listener.stage("generating")
        watch = Watch(lm.env.ledger, listener)
        prompts, tokens = complete_job(ready, lm, watch, listener)
        run_s = time.perf_counter() - loaded_s
        left = len(ready.ids) - prompts
        return JobReport(prompts, tokens, left, loaded_s - began_s, run_s, watch.peak_bytes)


def begin_job(ready: Ready, listener: JobListener) -> None:
    """Tell what the answers depend on, and which prompts cannot be run."""
    listener.begin(settings_of(ready))
    for place, prompt, error in ready.refused:
        listener.failed(place, _nothing(prompt), error)


def complete_job(ready: Ready, lm: OffloadedLM, watch: Watch, listener: JobListener) -> tuple[int, int]:
    """How many prompts and new tokens there were."""
    prompts = tokens = 0
    at = {place: n for n, place in enumerate(ready.places)}
    sampling, stops, new_tokens = ready.sampling, ready.stops, ready.request.max_new_tokens
    stream = lm.stream(
        ready.ids,
        new_tokens,
        sampling=sampling,
        stops=stops,
        numbers=ready.places,
        progress=watch,
        stopping=listener.stopping,
        stepped=listener.shrunk,
    )
    with closing(stream):  # before the model is, whatever the listener raises
        for done in stream:
            _tell(ready, at[done.index], done, listener)
            prompts, tokens = prompts + 1, tokens + len(done.token_ids)
    return prompts, tokens


def _tell(ready: Ready, n: int, done: Done, listener: JobListener) -> None:
    ids, prompt = ready.ids[n], ready.prompts[n]
    text = ready.tokenizer.decode(done.token_ids, after=ids)
    completion = Completion(prompt.id, prompt.content, text, done.token_ids, done.finish_reason, len(ids))
    if done.finish_reason != "error":
        listener.ended(done.index, completion)
        return
    dtype = str(ready.dtype).removeprefix("torch.")
    message = f"the logits for new token {len(done.token_ids)} are NaN or infinite in {dtype}"
    fix = "give --dtype bfloat16 or float32, or look for damaged weights"
    listener.failed(done.index, completion, NoNumbers("FP1102", message, fix=fix))


def _nothing(prompt: Prompt) -> Completion:
    """Of a prompt that was not run."""
    return Completion(prompt.id, prompt.content, None, (), "error", 0)
