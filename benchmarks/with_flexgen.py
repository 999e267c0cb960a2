"""FlexLLMGen (package flexgen 0.1.8) here: its own loop, its dummy weights, GPU memory capped; one JSON line.

    pip install --no-deps flexgen==0.1.8 attrs tqdm
    python benchmarks/with_flexgen.py --model opt-30b --block 16x4 --percent 20 80 0 100 0 100 [--steps 6]

With ``--steps`` only so many tokens are generated and the rest is projected from the mean decode step.  Exit code 3
where the package is not installed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import common
import peer
import torch

from flexplan.units import GiB


def arguments() -> argparse.Namespace:
    parser = peer.options(__doc__, "opt-30b", None)
    parser.add_argument("--block", default="16x4", help="gpu_batch_size x num_gpu_batches")
    parser.add_argument("--percent", nargs=6, type=int, default=[20, 80, 0, 100, 0, 100])
    parser.add_argument("--pack-weights", action="store_true")
    parser.add_argument("--pack-cache", action="store_true")
    parser.add_argument("--offload-dir", default="offload")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    peer.run("flexgen", "pip install --no-deps flexgen==0.1.8 attrs tqdm", args.json, lambda: measured(args))


def measured(args: argparse.Namespace) -> dict[str, Any]:
    from flexgen import flex_opt  # its modules import each other in circles: this one has to be first
    from flexgen.timer import timers

    common.cap_gpu(args.gpu_gib * GiB)
    Path(args.offload_dir).mkdir(parents=True, exist_ok=True)
    gpu, cpu = flex_opt.TorchDevice("cuda:0"), flex_opt.TorchDevice("cpu")
    disk = flex_opt.TorchDisk(args.offload_dir)
    env = flex_opt.ExecutionEnv(gpu=gpu, cpu=cpu, disk=disk, mixed=flex_opt.TorchMixedDevice([gpu, cpu, disk]))
    rows, batches = map(int, args.block.split("x"))
    config, asked = flex_opt.get_opt_config(args.model), policy(flex_opt, args, rows, batches)
    model, ready_s = common.timed(lambda: flex_opt.OptLM(config, env, "_DUMMY_", asked))
    try:
        draw = torch.Generator().manual_seed(0)
        prompts = torch.randint(10, 50_000, (rows * batches, args.prompt_len), generator=draw).tolist()
        model.generate([prompt[:32] for prompt in prompts], max_new_tokens=1)
        timers("generate").reset()
        model.generate(prompts, max_new_tokens=args.gen_len, cut_gen_len=args.steps)
        first_s, *steps = timers("generate").costs
    finally:
        env.close_copy_threads()
    step_s = sum(steps) / max(1, len(steps))
    shared = peer.result(args, rows * batches, first_s, step_s, len(steps) + 1, ready_s)
    return {"system": "flexgen 0.1.8", "block": args.block, "percent": args.percent, **shared}


def policy(flex_opt: Any, args: argparse.Namespace, rows: int, batches: int) -> Any:
    """4 bits as its own headline has them: groups of 64, asymmetric."""
    weights = flex_opt.CompressionConfig(num_bits=4, group_size=64, group_dim=0, symmetric=False)
    cache = flex_opt.CompressionConfig(num_bits=4, group_size=64, group_dim=2, symmetric=False)
    return flex_opt.Policy(
        rows, batches, *args.percent, True, True, True, False, 1.0, args.pack_weights, weights, args.pack_cache, cache
    )


if __name__ == "__main__":
    main()
