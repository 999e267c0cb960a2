"""A task graph on paper: played by a machine's rates, and what no order could beat.

bounds         Seconds that no order of a block's tasks can beat.
decoding       All passes of an output from a few of them, and from what each takes at the least.
fewer_batches  A block of many alike micro-batches, known from two blocks of few.
prediction     Simulates a policy: a few passes exactly, the rest between them. Holds the `Schedule` protocol.
rolling        A rolling job: some of its passes stand for all.
simulator      Runs a graph on paper: lanes in order, resources shared max-min.
sweeps         Sweeps made ready for the simulator; repeating ones are derived once.
"""

from flexplan.simulation.bounds import Bound, bound_of
from flexplan.simulation.prediction import Prediction, peak_bytes, predict, predict_seconds, with_bytes
from flexplan.simulation.rolling import JobTime, boardings_of, job_time, job_timeline, least_job_s
from flexplan.simulation.simulator import simulate_graph

__all__ = [
    "Bound",
    "JobTime",
    "Prediction",
    "boardings_of",
    "bound_of",
    "job_time",
    "job_timeline",
    "least_job_s",
    "peak_bytes",
    "predict",
    "predict_seconds",
    "simulate_graph",
    "with_bytes",
]
