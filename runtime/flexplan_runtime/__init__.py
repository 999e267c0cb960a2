"""The runtime: executes a task graph with torch.

>>> from flexplan_runtime import ExecutionEnv, OffloadedLM

embedded  The model that comes with flexplan: a tiny trained OPT, for the demo and for tests.
"""

from flexplan_runtime.execute import ExecutionEnv, Sampling
from flexplan_runtime.generate import Done, Generation, OffloadedLM, Request, Tokenizer

__all__ = ["Done", "ExecutionEnv", "Generation", "OffloadedLM", "Request", "Sampling", "Tokenizer"]
