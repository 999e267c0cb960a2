"""Models that are run only to be timed: a few layers of a known family, with random weights.

A kernel by itself, over and over, finds its threads awake and its memory warm: it is up to twice as fast as in a
model.  So what tasks take is measured where they happen.
"""

from __future__ import annotations

import time

import torch

from flexplan.graph import Timeline
from flexplan.model import ModelConstants, ModelShape, read_model, weight_tensors
from flexplan.policy import Policy
from flexplan_runtime.execute import ExecutionEnv
from flexplan_runtime.generate import OffloadedLM
from flexplan_runtime.weights import DUMMY

Model = tuple[ModelShape, ModelConstants]

FAMILIES = ("facebook/opt-6.7b", "meta-llama/Llama-2-7b-hf")  # whose layers launch few and many kernels
NEW = 6
PROMPT_LEN = 512
RESIDENT = Policy(2, 1, sep_layer=False)
_SMALL = {"vocab_size": 512, "max_positions": 1024}


class TrialModels:
    """Opens and runs them, all of one dtype and in one environment."""

    def __init__(self, env: ExecutionEnv, dtype: torch.dtype) -> None:
        self.env = env
        self.dtype = dtype

    def model(self, name: str, **update: int) -> Model:
        """A family's with a few numbers changed."""
        shape, math = read_model(name)
        return shape.model_copy(update=_SMALL | update).with_dtype(self.dtype.itemsize), math

    def decoded(self, model: Model, policy: Policy, new: int = NEW) -> Timeline:
        """The timeline of a second, warm run."""
        return self.timelines(model, policy, new, 1)[0]

    def timelines(
        self, model: Model, policy: Policy, new: int, times: int, prompt_len: int = PROMPT_LEN, *, hot: bool = False
    ) -> list[Timeline]:
        """Of several runs, after one that warms up; ``hot``: each straight after a second of products on a device."""
        with OffloadedLM(model, self.env, DUMMY, policy, dtype=self.dtype) as lm:
            prompts = [[(7 * n + t) % 500 + 4 for t in range(prompt_len)] for n in range(policy.block_size)]
            found = list[Timeline]()
            for _ in range(1 + times):
                if hot:
                    heat(self.env.device, self.dtype)
                found += lm.complete(prompts, new, trace=True).timelines[:1]
            return found[1:]


def heat(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> None:
    """Products without a pause, until the device's clock is where its power limit holds it."""
    square = torch.zeros(8192, 8192, device=device, dtype=dtype).normal_()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for _ in range(16):
            torch.mm(square, square)
        torch.cuda.synchronize(device)


def layer_bytes(s: ModelShape) -> int:
    """Weights of one layer."""
    return sum(t.nbytes for t in weight_tensors(s) if t.layer == 0)
