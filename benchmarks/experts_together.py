"""A mixture of experts of one layer on the GPU, all experts in two kernels, beside one expert after the other.

    python benchmarks/experts_together.py --model mistralai/Mixtral-8x7B-v0.1

For each number of tokens: milliseconds, TFLOP/s of the products, GB/s of the weights that are read, and milliseconds
one by one.
"""

from __future__ import annotations

import common
import torch
from flexplan_runtime.models import family

from flexplan.model import MLP, read_model, weight_tensors

TOKENS = (1, 16, 48, 128, 384, 1024, 4096, 8192)


def main() -> None:
    args = common.parser(__doc__, model="mistralai/Mixtral-8x7B-v0.1").parse_args()
    shape, math = read_model(args.model)
    shape = shape.with_dtype(2)
    maths = family(shape, math)
    weights = {
        t.name: (torch.empty(t.rows, t.cols, dtype=torch.bfloat16, device="cuda").normal_(std=t.cols**-0.5),)
        for t in weight_tensors(shape)
        if t.layer == 0 and t.block == MLP
    }
    weights["mlp_norm.weight"] = (torch.ones(shape.hidden_size, 1, dtype=torch.bfloat16, device="cuda"),)
    together = dict(weights)
    maths.prepare(together, 0)
    print(f"{args.model}: {shape.num_experts} experts of {shape.expert_width}, {shape.experts_per_token} a token")
    for tokens in TOKENS:
        x = torch.randn(tokens, 1, shape.hidden_size, dtype=torch.bfloat16, device="cuda")
        all_s, each_s = (common.gpu_seconds(lambda w=w, x=x: maths.mlp(w, x)) for w in (together, weights))
        numbers = 3 * shape.hidden_size * shape.expert_width
        flops = 2 * numbers * tokens * shape.experts_per_token
        nbytes = 2 * numbers * min(shape.num_experts, tokens * shape.experts_per_token)
        rates = f"{flops / all_s / 1e12:4.0f} TFLOP/s  {nbytes / all_s / 1e9:5.0f} GB/s"
        print(f"{tokens:5} tokens  {1e3 * all_s:7.3f} ms  {rates}   one by one {1e3 * each_s:7.3f} ms")


if __name__ == "__main__":
    main()
