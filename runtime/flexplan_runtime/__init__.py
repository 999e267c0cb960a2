"""The runtime: executes a task graph with torch.

>>> from flexplan_runtime import ExecutionEnv, OffloadedLM
"""

from flexplan_runtime.execute.env import ExecutionEnv
from flexplan_runtime.generate.lm import OffloadedLM
from flexplan_runtime.generate.loop import Generation

__all__ = ["ExecutionEnv", "Generation", "OffloadedLM"]
