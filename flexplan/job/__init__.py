"""A job: what the command line asks of a runtime, and what it hands back.

completion  What became of a request: its answers, and their log-probabilities.
notebook    A bench as a notebook shows it.
pace        Which part of its time a job has behind it, by its plan.
record      A recording's file, for a report.
request     What was typed, made into a request.
runtime     The `Runtime` protocol, its requests and its reports.
standing    How far a run is, and what its seats held.
"""

from flexplan.job.completion import Choice, Completion, TokenLogprob
from flexplan.job.pace import Pace
from flexplan.job.record import read_recording, record_text, refuse_other_plan
from flexplan.job.request import (
    DEFAULT_NEW_TOKENS,
    budget_bytes,
    refuse_idle_cluster,
    refuse_idle_format,
    refuse_idle_packed_cache,
    refuse_idle_prompt_len,
    refuse_idle_sampling,
    request_of,
)
from flexplan.job.runtime import (
    BenchReport,
    Cluster,
    DemoReport,
    Finding,
    JobListener,
    JobReport,
    Listener,
    Recording,
    RunReport,
    RunRequest,
    Say,
    Shares,
    find_runtime,
)
from flexplan.job.standing import Standing, UsageMean

__all__ = [
    "DEFAULT_NEW_TOKENS",
    "BenchReport",
    "Choice",
    "Cluster",
    "Completion",
    "DemoReport",
    "Finding",
    "JobListener",
    "JobReport",
    "Listener",
    "Pace",
    "Recording",
    "RunReport",
    "RunRequest",
    "Say",
    "Shares",
    "Standing",
    "TokenLogprob",
    "UsageMean",
    "budget_bytes",
    "find_runtime",
    "read_recording",
    "record_text",
    "refuse_idle_cluster",
    "refuse_idle_format",
    "refuse_idle_packed_cache",
    "refuse_idle_prompt_len",
    "refuse_idle_sampling",
    "refuse_other_plan",
    "request_of",
]
