"""transformers with Accelerate's offload on this machine: untrained weights, GPU memory capped; one JSON line.

    python benchmarks/with_accelerate.py --model Qwen/Qwen2.5-32B --batch 8 --weights-gib 10 [--steps 4]

``--weights-gib`` of the weights stay on the GPU, as `infer_auto_device_map` places them beside room for the largest
module; the rest is copied from the host for each pass.  Of several batches the first that fits is measured.  Only
``--steps`` tokens are generated and the rest is projected.  Exit code 3 where Accelerate is not installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import common
import peer
import torch

from flexplan.model import ModelShape, read_model
from flexplan.units import GiB


def arguments() -> argparse.Namespace:
    parser = peer.options(__doc__, "facebook/opt-30b", 4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--weights-gib", type=float, default=10)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    peer.run("accelerate", "pip install accelerate", args.json, lambda: measured(args))


def measured(args: argparse.Namespace) -> dict[str, Any]:
    import accelerate

    common.cap_gpu(args.gpu_gib * GiB)
    shape, dtype = read_model(args.model)[0], getattr(torch, args.dtype)
    model, ready_s = common.timed(lambda: offloaded(shape, dtype, args.weights_gib))
    for batch in args.batch:
        torch.cuda.empty_cache()
        try:
            ids = torch.randint(10, 30_000, (batch, args.prompt_len), device="cuda")
            generate_s(model, ids[:, :16], 1)
            prefill_s = generate_s(model, ids, 1)
            step_s = (generate_s(model, ids, args.steps) - prefill_s) / (args.steps - 1)
        except torch.cuda.OutOfMemoryError:
            print(f"batch {batch} does not fit", file=sys.stderr, flush=True)
            continue
        shared = peer.result(args, batch, prefill_s, step_s, args.steps, ready_s)
        return {"system": f"accelerate {accelerate.__version__}", "batch": batch, **shared}
    raise SystemExit("no batch fits")


def offloaded(shape: ModelShape, dtype: torch.dtype, weights_gib: float) -> Any:
    """The model with the modules that fit on the GPU and the others on the host."""
    import accelerate
    from transformers import AutoModelForCausalLM

    with accelerate.init_empty_weights():
        model = AutoModelForCausalLM.from_config(config_of(shape), dtype=dtype)
    model.tie_weights()
    room = {0: f"{weights_gib}GiB", "cpu": "110GiB"}
    whole = ["OPTDecoderLayer", "Qwen2DecoderLayer"]
    places = accelerate.infer_auto_device_map(model, max_memory=room, no_split_module_classes=whole, dtype=dtype)
    if 0 not in places.values():
        raise SystemExit("nothing stays on the GPU, so nothing would be computed there: raise --weights-gib")
    model = model.to_empty(device="cpu")
    for weights in model.parameters():
        weights.data.fill_(0.01)
    model.tie_weights()
    return accelerate.dispatch_model(model, places).eval()


def config_of(s: ModelShape) -> Any:
    """As transformers describes it."""
    from transformers import OPTConfig, Qwen2Config

    same = {"vocab_size": s.vocab_size, "hidden_size": s.hidden_size, "num_hidden_layers": s.num_layers}
    same |= {"num_attention_heads": s.num_heads}
    if s.family == "opt":
        return OPTConfig(**same, ffn_dim=s.ffn_size, word_embed_proj_dim=s.embed_size)
    if s.family == "qwen2":
        return Qwen2Config(
            **same,
            num_key_value_heads=s.num_kv_heads,
            intermediate_size=s.ffn_size,
            tie_word_embeddings=s.tied_embeddings,
        )
    raise SystemExit(f"{s.name}: no description of the family {s.family} here")


@torch.inference_mode()
def generate_s(model: Any, ids: torch.Tensor, tokens: int) -> float:
    """Seconds of generating so many tokens."""
    torch.cuda.synchronize()
    began_s = time.perf_counter()
    model.generate(
        ids, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, attention_mask=torch.ones_like(ids)
    )
    torch.cuda.synchronize()
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()
