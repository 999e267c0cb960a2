"""One block run: its graph walked lane by lane.

block          What one block being run knows of itself.
block_run      One block: prompts in, graph through the executor, tokens out.
choosing       From logits to the next token, each row in its own way.
capture        GPU tasks captured once as CUDA graphs and then replayed.
env            `ExecutionEnv`: device, budgets, scratch directory, streams.
executor       Walks the graph lane by lane and records a `Timeline`.
lanes          A thread a lane, a token a task, the first error to the caller.
layer_weights  The weights of a task's layer as typed tensors.
pacing         How the interpreter is shared while lanes run: by the thread that feeds them, and by the collector.
rings          What a micro-batch knows of those of its caches that are rings.
throttle       Slows this machine down to given rates, for experiments and tests.
turns          One call at a time in an environment: others wait, a call from inside a call is refused.
views          `TaskView`: a task as its handler sees it, with the bytes that it declares and no others.
warm_up        What is compiled while a model is opened.
"""

from flexplan_runtime.execute.block import BatchState, BlockState, batch_states
from flexplan_runtime.execute.block_run import BlockPlan, BlockRun, Report
from flexplan_runtime.execute.capture import Replays
from flexplan_runtime.execute.choosing import (
    Ends,
    Given,
    Likelihoods,
    Logprob,
    Penalties,
    Row,
    Sampling,
    Scoring,
    Wanted,
    penalties_of,
)
from flexplan_runtime.execute.env import ExecutionEnv
from flexplan_runtime.execute.executor import Trace
from flexplan_runtime.execute.lanes import forget_frames
from flexplan_runtime.execute.seating import seat_states
from flexplan_runtime.execute.warm_up import prepare_steps

__all__ = [
    "BatchState",
    "BlockPlan",
    "BlockRun",
    "BlockState",
    "Ends",
    "ExecutionEnv",
    "Given",
    "Likelihoods",
    "Logprob",
    "Penalties",
    "Replays",
    "Report",
    "Row",
    "Sampling",
    "Scoring",
    "Trace",
    "Wanted",
    "batch_states",
    "forget_frames",
    "penalties_of",
    "prepare_steps",
    "seat_states",
]
