"""FlexLLMGen (package flexgen 0.1.8) here: its own loop, its dummy weights, GPU memory capped; one JSON line.

    pip install --no-deps flexgen==0.1.8 attrs tqdm
    python benchmarks/with_flexgen.py --model opt-30b --block 16x4 --percent 20 80 0 100 0 100 [--steps 6]

With ``--steps`` only so many tokens are generated and the rest is projected from the mean decode step.  Exit code 3
where the package is not installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="opt-30b")
    parser.add_argument("--block", default="16x4", help="gpu_batch_size x num_gpu_batches")
    parser.add_argument("--percent", nargs=6, type=int, default=[20, 80, 0, 100, 0, 100])
    parser.add_argument("--prompt-len", type=int, default=512)
    parser.add_argument("--gen-len", type=int, default=32)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--gpu-gib", type=float, default=16)
    parser.add_argument("--pack-weights", action="store_true")
    parser.add_argument("--pack-cache", action="store_true")
    parser.add_argument("--offload-dir", default="offload")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if find_spec("flexgen") is None:
        print("the reference is not installed: pip install --no-deps flexgen==0.1.8 attrs tqdm", file=sys.stderr)
        raise SystemExit(3)
    print(json.dumps(measured(args)), flush=True)


def measured(args: argparse.Namespace) -> dict[str, Any]:
    from flexgen import flex_opt  # its modules import each other in circles: this one has to be first
    from flexgen.timer import timers

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, args.gpu_gib * 2**30 / total))
    Path(args.offload_dir).mkdir(parents=True, exist_ok=True)
    gpu, cpu = flex_opt.TorchDevice("cuda:0"), flex_opt.TorchDevice("cpu")
    disk = flex_opt.TorchDisk(args.offload_dir)
    env = flex_opt.ExecutionEnv(gpu=gpu, cpu=cpu, disk=disk, mixed=flex_opt.TorchMixedDevice([gpu, cpu, disk]))
    rows, batches = map(int, args.block.split("x"))
    began_s = time.perf_counter()
    model = flex_opt.OptLM(flex_opt.get_opt_config(args.model), env, "_DUMMY_", policy(flex_opt, args, rows, batches))
    ready_s = time.perf_counter() - began_s
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
    tokens = rows * batches * args.gen_len
    return {
        "system": "flexgen 0.1.8",
        "model": args.model,
        "block": args.block,
        "percent": args.percent,
        "tokens_per_s": round(tokens / (first_s + step_s * (args.gen_len - 1)), 2),
        "prefill_s": round(first_s, 2),
        "step_s": round(step_s, 3),
        "steps_run": len(steps) + 1,
        "ready_s": round(ready_s, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }


def policy(flex_opt: Any, args: argparse.Namespace, rows: int, batches: int) -> Any:
    """4 bits as its own headline has them: groups of 64, asymmetric."""
    weights = flex_opt.CompressionConfig(num_bits=4, group_size=64, group_dim=0, symmetric=False)
    cache = flex_opt.CompressionConfig(num_bits=4, group_size=64, group_dim=2, symmetric=False)
    return flex_opt.Policy(
        rows, batches, *args.percent, True, True, True, False, 1.0, args.pack_weights, weights, args.pack_cache, cache
    )


if __name__ == "__main__":
    main()
