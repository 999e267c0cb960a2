"""Why a plan is as fast as it is, and what would make it faster.

critical_path  What a decoding pass waits for, and the slack of each lane, by networkx.
explanation    What limits a plan, what more would bring, and the baselines: put together.
job_parts      What each part of a rolling schedule brings for a list of requests.
notebook       An explanation as a notebook shows it.
one_pass       One pass lane by lane, and what an idle lane waits for.
phases         Bound and prediction of a whole job by phase.
places         Where weights and cache live, layer by layer, and what fills each tier.
sensitivity    What more of each resource would bring, found by solving again.
"""

from flexplan.explanation.critical_path import CriticalPath
from flexplan.explanation.explanation import Explanation, binding_tiers, explain
from flexplan.explanation.one_pass import (
    OnePass,
    Surroundings,
    latest,
    predicted_spans,
    surroundings,
    view,
)
from flexplan.explanation.phases import Phases, job_bound, job_prediction
from flexplan.explanation.places import heaviest_placement, layer_places, tier_use

__all__ = [
    "CriticalPath",
    "Explanation",
    "OnePass",
    "Phases",
    "Surroundings",
    "binding_tiers",
    "explain",
    "heaviest_placement",
    "job_bound",
    "job_prediction",
    "latest",
    "layer_places",
    "predicted_spans",
    "surroundings",
    "tier_use",
    "view",
]
