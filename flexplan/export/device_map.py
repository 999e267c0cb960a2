"""A plan as accelerate's device map: whole modules of transformers' model on the GPU, the host or the disk."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, combinations_with_replacement

from flexplan.errors import InfeasiblePlan
from flexplan.export.base import DENSE, Export, asked_percents, distance, percents, refuse
from flexplan.export.module_names import Module, transformers_modules
from flexplan.graph import TIERS
from flexplan.plan import Plan
from flexplan.policy import Policy

SYSTEM = "device-map"
Device = str | int
Cut = tuple[int, int]  # modules before the first number are on the gpu, before the second on the cpu


class DeviceMap(dict[str, Device]):
    """Module -> device, as accelerate takes it; ``export`` says how far that is from the plan."""

    export: Export


def device_map(plan: Plan, gpu: Device = 0) -> DeviceMap:
    """The map for ``accelerate.dispatch_model`` nearest to a plan's shares of the weights that fits where it fits.

    Raises PolicyError for fields that have no counterpart, InfeasiblePlan where whole modules are too coarse for
    the budgets.
    """
    problem, policy, free_bytes = plan.problem, plan.policy, plan.free_bytes
    refuse(SYSTEM, policy, DENSE)
    modules = transformers_modules(problem.model)
    sizes = [module.nbytes for module in modules]
    due = [share * sum(sizes) for share in policy.shares("w")]
    cut = nearest_cut(sizes, due, [d + free_bytes[tier] for d, tier in zip(due, TIERS, strict=True)])
    found = DeviceMap(_placed(modules, cut, (gpu, "cpu", "disk")))
    if problem.model.tied_embeddings:
        found["lm_head"] = found[modules[0].name]  # one tensor, so one place
    given = {"w": percents(bytes_of(sizes, cut)), "cache": (100.0, 0.0, 0.0)}
    found.export = Export(SYSTEM, dict(found), asked_percents(policy), given, _differences(policy))
    return found


def nearest_cut(sizes: Sequence[int], due: Sequence[float], room: Sequence[float]) -> Cut:
    """Where a row of modules is cut so that the bytes of each tier come nearest to what is due, within its room.

    >>> nearest_cut([4, 4, 4], [6, 6, 0], [9, 9, 0])
    (1, 3)
    """
    cuts = combinations_with_replacement(range(len(sizes) + 1), 2)
    fitting = [(bytes_of(sizes, cut), cut) for cut in cuts]
    fitting = [(n, cut) for n, cut in fitting if all(x <= most for x, most in zip(n, room, strict=True))]
    if not fitting:
        raise InfeasiblePlan(
            "FP408",
            "no map of whole modules fits the budgets that the plan fits: it cuts modules",
            fix="raise --cpu-mem, or give --disk-mem",
            binding=("cpu",),
        )
    _, cut = min(fitting, key=lambda pair: (distance(pair[0], due), -pair[1][0], -pair[1][1]))
    return cut


def bytes_of(sizes: Sequence[int], cut: Cut) -> list[int]:
    """Bytes of the three tiers."""
    sums = [0, *accumulate(sizes)]
    return [sums[cut[0]], sums[cut[1]] - sums[cut[0]], sums[-1] - sums[cut[1]]]


def _placed(modules: Sequence[Module], cut: Cut, devices: Sequence[Device]) -> dict[str, Device]:
    return {module.name: devices[(n >= cut[0]) + (n >= cut[1])] for n, module in enumerate(modules)}


def _differences(policy: Policy) -> tuple[str, ...]:
    said = []
    if policy.cache_gpu_percent < 100:
        said.append(
            f"accelerate keeps the KV cache on the device that computes, the plan {policy.cache_gpu_percent:g} % of "
            "it: run fewer sequences at a time"
        )
    if policy.act_gpu_percent < 100:
        said.append("accelerate keeps activations on the device that computes")
    said.append("accelerate streams a layer when its turn comes: nothing overlaps, no block shares a pass")
    return tuple(said)
