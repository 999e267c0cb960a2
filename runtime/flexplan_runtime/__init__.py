"""The runtime: executes a task graph with torch.

>>> from flexplan_runtime import ExecutionEnv, OffloadedLM
"""

from flexplan_runtime.execute import ExecutionEnv
from flexplan_runtime.generate import Generation, OffloadedLM

__all__ = ["ExecutionEnv", "Generation", "OffloadedLM"]
