"""A job: what the command line asks of a runtime, and what it hands back.

request  What was typed, made into a request.
runtime  The `Runtime` protocol, its requests and its reports.
"""

from flexplan.job.request import budget_bytes, refuse_idle_cluster, refuse_idle_format, refuse_idle_sampling, request_of
from flexplan.job.runtime import (
    BenchReport,
    Cluster,
    Completion,
    DemoReport,
    Finding,
    JobListener,
    JobReport,
    Listener,
    RunReport,
    RunRequest,
    Say,
    Shares,
    find_runtime,
)

__all__ = [
    "BenchReport",
    "Cluster",
    "Completion",
    "DemoReport",
    "Finding",
    "JobListener",
    "JobReport",
    "Listener",
    "RunReport",
    "RunRequest",
    "Say",
    "Shares",
    "budget_bytes",
    "find_runtime",
    "refuse_idle_cluster",
    "refuse_idle_format",
    "refuse_idle_sampling",
    "request_of",
]
