"""The runtime: executes a task graph with torch.

>>> from flexplan_runtime import ExecutionEnv, OffloadedLM
"""

from flexplan_runtime.execute import ExecutionEnv, Sampling
from flexplan_runtime.generate import Done, Generation, OffloadedLM, Request, Tokenizer

__all__ = ["Done", "ExecutionEnv", "Generation", "OffloadedLM", "Request", "Sampling", "Tokenizer"]
