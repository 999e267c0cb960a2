"""A gallery of plans: five models on five machines, as `solve` answers by default; all machines are guesses.

python benchmarks/gallery.py --write docs/gallery.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from common import parser

from flexplan import InfeasiblePlan, Plan, Problem, solve
from flexplan.files import write_whole

MODELS = (
    "Qwen/Qwen2.5-7B",
    "facebook/opt-30b",
    "mistralai/Mixtral-8x7B-v0.1",
    "meta-llama/Llama-3.1-70B",
    "facebook/opt-175b",
)
MACHINES = ("h100-pcie5", "a100-pcie4", "rtx4090", "rtx3090", "t4-gcp")
HEAD = """\
# A gallery of plans

Five models on five machines, each with all the memory that its preset has: prompts of 512 tokens, 32 new ones. Rates of
presets are guesses, so these are predictions for machines that nobody measured; `flexplan profile` measures yours.
Written by `python benchmarks/gallery.py --write docs/gallery.md`, {day}; a test solves some of them again.

"""
COLUMNS = ("model", "machine", "tokens/s", "a block", "weights", "KV cache", "activations", "busiest in decoding")


def row(model: str, machine: str) -> tuple[str, ...]:
    """What the gallery says of a model on a machine; shares are percent on GPU, host and disk."""
    name = model.rpartition("/")[2]
    try:
        plan = solve(Problem.of(model, hardware=machine))
    except InfeasiblePlan as refusal:
        return name, machine, "-", f"nothing fits: too small is {', '.join(refusal.binding)}", "", "", "", ""
    policy, found = plan.policy, plan.prediction
    block = f"{policy.gpu_batch_size} x {policy.num_gpu_batches}"
    shares = (_shares(plan, what) for what in ("w", "cache", "act"))
    return name, machine, _rate(found.tokens_per_s), block, *shares, found.busiest_lane["decode"]


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def _shares(plan: Plan, what: str) -> str:
    return " / ".join(f"{100 * share:.0f}" for share in plan.policy.shares(what))


def page(rows: Iterable[tuple[str, ...]]) -> str:
    """`docs/gallery.md`."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return HEAD.format(day=date.today()) + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--write", type=Path, metavar="FILE", required=True)
    target, rows = asked.parse_args().write, []
    for model in MODELS:
        for machine in MACHINES:
            rows.append(row(model, machine))
            print(json.dumps(rows[-1]), flush=True)
    write_whole(target, page(rows))


if __name__ == "__main__":
    main()
