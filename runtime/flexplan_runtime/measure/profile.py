"""Measuring this machine: every rate of a Hardware, with the runtime's own copies, attention and disk file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import torch

from flexplan.hardware import Hardware
from flexplan.job import Say
from flexplan.units import MiB
from flexplan_runtime.execute import ExecutionEnv
from flexplan_runtime.measure.fixed_costs import step_costs, task_costs
from flexplan_runtime.measure.in_model import attention_rates
from flexplan_runtime.measure.machine import capacities, cores, device_name, fingerprint
from flexplan_runtime.measure.microbench import ON_CPU, ON_CUDA, Bench, Figures, Sizes
from flexplan_runtime.measure.prompts import product_rate, prompt_rates
from flexplan_runtime.measure.timing import Figure
from flexplan_runtime.measure.trial_models import TrialModels

GPU_OVERHEAD_BYTES = 128 * MiB  # library workspaces and captured steps: 40 to 110 MiB seen on an H200
_PROMPT_RUNS = 6  # each straight after a second of other products
STEADY_PERCENT = 20  # figures that lie further apart than this were not measured on an idle machine


def measure(device: str | None, scratch: Path, say: Say, sizes: Sizes | None = None) -> Hardware:
    """This machine's hardware file; ``say`` is told each figure with its spread."""
    with ExecutionEnv.create(scratch, device=device) as env, torch.no_grad():
        bench = Bench(env, sizes or (ON_CPU if env.device.type == "cpu" else ON_CUDA))
        rounds = [_round(bench, say) for _ in range(bench.sizes.rounds)]
        figures = {name: Figure.among([figures[name] for figures in rounds]) for name in rounds[0]}
        _warn_if_unsteady(figures, say)
        kept = {name: figure for name, figure in figures.items() if name in Hardware.model_fields}
        return Hardware.model_validate(
            {
                "name": device_name(env.device) or "cpu",
                "fingerprint": fingerprint(env.device),
                "preset": False,
                "measured_on": date.today().isoformat(),
                "cores": cores(),
                "host_only": bench.on_host,
                "gpu_overhead_bytes": 0 if bench.on_host else GPU_OVERHEAD_BYTES,
                **capacities(env.device, env.offload_dir),
                **{name: figure.value for name, figure in kept.items()},
                "spread_percent": {name: round(figure.spread_percent, 1) for name, figure in kept.items()},
            }
        )


def _round(bench: Bench, say: Say) -> Figures:
    """Every figure once, the disk's at both ends: its rate changes within a minute where others use it, too."""
    figures: Figures = {}
    for part in (bench.compute, bench.link, bench.host, bench.disk):
        figures |= _told(part(), say)
    trials = TrialModels(bench.env, bench.dtype)
    figures |= _told(task_costs(trials), say)
    figures |= _told(step_costs(trials, figures["gpu_bytes_per_s"].value), say)
    if bench.on_host:
        figures |= _told(product_rate(trials, figures), say)
    else:
        grouped = TrialModels(bench.env, torch.bfloat16)  # as models whose queries share keys are stored
        figures |= _told(prompt_rates(grouped, figures, max(2, round(_PROMPT_RUNS * bench.sizes.repeat_s))), say)
        figures |= _told(attention_rates(grouped, figures), say)
    again = bench.disk()
    return figures | _told({name: Figure.among([figures[name], figure]) for name, figure in again.items()}, say)


def _warn_if_unsteady(figures: Figures, say: Say) -> None:
    """Rates, not fixed times: those differ from task to task."""
    unsteady = [name for name, f in figures.items() if name.endswith("per_s") and f.spread_percent > STEADY_PERCENT]
    if unsteady:
        say(f"warning: {', '.join(unsteady)} differed by more than {STEADY_PERCENT} %; was the machine idle?")


def _told(figures: Figures, say: Say) -> Figures:
    for name, figure in figures.items():
        say(f"{name} {figure}")
    return figures
