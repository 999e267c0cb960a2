"""Why a plan is as fast as it is, and what would make it faster.

critical_path  What a decoding pass waits for, and the slack of each lane, by networkx.
explanation    What limits a plan, what more would bring, and the baselines: put together.
sensitivity    What more of each resource would bring, found by solving again.
"""

from flexplan.explanation.critical_path import CriticalPath
from flexplan.explanation.explanation import Explanation, binding_tiers, explain

__all__ = [
    "CriticalPath",
    "Explanation",
    "binding_tiers",
    "explain",
]
