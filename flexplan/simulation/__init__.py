"""A task graph on paper: played by a machine's rates, and what no order could beat.

alike          Sweeps that are alike, all known from two.
block_times    The phases of a block, from a few of its passes.
bounds         Seconds that no order of a block's tasks can beat.
decoding       All passes of an output from a few of them, and from what each takes at the least.
fewer_batches  A block of many alike micro-batches, known from two blocks of few.
passes         Passes timed on graphs of few layers; of those that are alike two are written.
prediction     What a policy takes, in seconds and bytes.
rolling        A rolling job: some of its passes stand for all.
simulator      Runs a graph on paper: lanes in order, resources shared max-min.
stretches      What work lies between the moments that divide a block's phases.
sweeps         Sweeps made ready for the simulator; repeating ones are derived once.
"""

from flexplan.simulation.block_times import PHASES, PhaseName
from flexplan.simulation.bounds import Bound, bound_of, rough_bound_of
from flexplan.simulation.prediction import Forecast, Prediction, peak_bytes, predict, with_bytes
from flexplan.simulation.rolling import boardings_of, job_time, job_timeline, least_job_s, time_of_passes
from flexplan.simulation.simulator import simulate_graph

__all__ = [
    "PHASES",
    "Bound",
    "Forecast",
    "PhaseName",
    "Prediction",
    "boardings_of",
    "bound_of",
    "job_time",
    "job_timeline",
    "least_job_s",
    "peak_bytes",
    "predict",
    "rough_bound_of",
    "simulate_graph",
    "time_of_passes",
    "with_bytes",
]
