"""What a page says of a run: how far it was from its prediction, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from flexplan.drawing import Html, element, html_table
from flexplan.explanation import OnePass, Surroundings, latest
from flexplan.job import Recording
from flexplan.plan import Plan
from flexplan.report.html.shown import Shown
from flexplan.report.job import job_lines
from flexplan.report.tables import gap, in_order, per_second, seconds


def run_sentences(shown: Shown, recording: Recording) -> Iterator[str]:
    """How fast it was, and in what it was another job than the one that is explained."""
    took_s = recording.prefill_s + recording.decode_s
    rate, promised = per_second(recording.num_tokens, took_s), recording.plan.prediction
    yield (
        f"Measured on {recording.device} in {recording.dtype}: {recording.num_tokens:,} tokens in {seconds(took_s)}, "
        f"{rate:.4g} tokens per second: {gap(promised.total_s, took_s)} time beside the prediction for these prompts."
    )
    yield from (f"{line[0].upper()}{line[1:]}." for line in job_lines(recording))
    yield from _differences(shown.found.plan, recording.plan)
    if not shown.is_measured:
        yield "Of its passes none was recorded whole: rows ended earlier, or memory gave out."


def _differences(plan: Plan, ran: Plan) -> Iterator[str]:
    mine, theirs = plan.problem.workload, ran.problem.workload
    lens = f"{min(theirs.prompt_lens)} to {max(theirs.prompt_lens)}"
    prompts = f"{theirs.num_prompts:,} prompts of {lens} tokens and {theirs.gen_len} new ones"
    if (mine.num_prompts, mine.prompt_len, mine.gen_len) != (theirs.num_prompts, theirs.prompt_len, theirs.gen_len):
        yield f"What ran were {prompts}: times and passes below are of those."
    if plan.problem.hardware.fingerprint != ran.problem.hardware.fingerprint:
        yield f"It is predicted for {ran.problem.hardware.name}, the plan was made for {plan.problem.hardware.name}."
    if plan.policy.block_size != ran.policy.block_size:
        yield f"Its blocks had {ran.policy.block_size:,} sequences, the plan's {plan.policy.block_size:,}."


def busy_lanes(recording: Recording) -> Html:
    """Busy seconds by lane over the whole job."""
    predicted: Counter[str] = Counter()
    for busy in recording.plan.prediction.lane_busy_s.values():
        predicted.update(busy)
    rows = [
        [lane, seconds(predicted[lane]), seconds(took), gap(predicted[lane], took)]
        for lane, took in (
            (lane, recording.lane_busy_s.get(lane, 0.0)) for lane in in_order({**predicted, **recording.lane_busy_s})
        )
    ]
    return html_table(("busy by lane", "predicted", "measured", "gap"), rows)


def kinds(around: Surroundings, predicted: OnePass, measured: OnePass) -> Html:
    """What a pass's tasks take by kind, those first that took longest."""
    sums = [_by_kind(around, view) for view in (predicted, measured)]
    counts = Counter(task.kind for task in around.sweep.tasks)
    rows = [
        [kind, f"{counts[kind]:,}", seconds(sums[0][kind]), seconds(took), gap(sums[0][kind], took)]
        for kind, took in sums[1].most_common()
    ]
    return html_table(("kind of task", "tasks", "predicted", "measured", "gap"), rows)


def slowest(predicted: OnePass, measured: OnePass) -> Html:
    """The tasks that took longest beyond what is predicted."""
    promised, took = ({span.name: span.end_s - span.start_s for span in view.spans} for view in (predicted, measured))
    rows = [
        [element("code", name), seconds(promised[name]), seconds(took[name])] for name in latest(predicted, measured)
    ]
    return html_table(("the slowest beside their prediction", "predicted", "measured"), rows)


def _by_kind(around: Surroundings, view: OnePass) -> Counter[str]:
    found: Counter[str] = Counter()
    for span in view.spans:
        if span.i == view.i:
            found[around.tasks[span.name].kind] += span.end_s - span.start_s  # type: ignore[assignment]
    return found
