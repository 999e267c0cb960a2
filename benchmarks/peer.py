"""What the drivers of other systems share: flags, and the figures of the JSON line that each prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import common
import torch

from flexplan.units import GiB

NOT_INSTALLED = 3  # exit code


def options(description: str, model: str, steps: int | None) -> argparse.ArgumentParser:
    """Flags of a model, a workload and a budget."""
    parser = common.parser(description, model)
    parser.add_argument("--prompt-len", type=int, default=512)
    parser.add_argument("--gen-len", type=int, default=32)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--gpu-gib", type=float, default=16)
    parser.add_argument("--json", type=Path, help="add the line to this file, too")
    return parser


def run(package: str, how: str, kept: Path | None, measured: Callable[[], dict[str, Any]]) -> None:
    """Print what was measured, and keep it; or say that the package is not installed and how it would be."""
    if find_spec(package) is None:
        print(f"{package} is not installed: {how}", file=sys.stderr)
        raise SystemExit(NOT_INSTALLED)
    common.put(measured(), kept)


def result(
    args: argparse.Namespace, sequences: int, prefill_s: float, step_s: float, steps_run: int, ready_s: float
) -> dict[str, Any]:
    """Tokens a second of the whole workload, projected from the mean decode step, and what they come from."""
    return {
        "model": args.model,
        "tokens_per_s": round(sequences * args.gen_len / (prefill_s + step_s * (args.gen_len - 1)), 2),
        "prefill_s": round(prefill_s, 2),
        "step_s": round(step_s, 3),
        "steps_run": steps_run,
        "ready_s": round(ready_s, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / GiB, 2),
    }
