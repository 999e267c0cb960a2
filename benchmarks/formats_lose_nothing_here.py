"""What quantised formats lose, on a small trained model: against the numbers that they stand for, and against 16 bits.

    python benchmarks/formats_lose_nothing_here.py

Each format is written from the model by the encoders of the tests, which round to nearest: what it loses against 16
bits is the format's and theirs.  What it loses against the dequantised model would be flexplan's: the same tokens are
forced upon both, and the largest difference between the likelihoods of one is printed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import common
import torch
from flexplan_runtime.embedded import tiny_opt_path
from perplexity import cut, likelihoods, python_topics

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "runtime"))  # the encoders of the tests
from quantised import BLOCK, GPTQ, Format, awq_of, compressed, fp8, gptq, packed, quantise

FLOATS = {"type": "float", "num_bits": 8, "symmetric": True}


def formats(group: int) -> dict[str, Format]:
    """The formats by their names, as published but for the group."""
    int4 = {"type": "int", "num_bits": 4, "strategy": "group", "group_size": group}
    return {
        "FP8, 128 x 128": Format(BLOCK | {"weight_block_size": [128, 128]}, fp8(128, 128, torch.float32, "_scale_inv")),
        "FP8, a scale a row": Format(
            compressed("float-quantized", strategy="channel", **FLOATS), fp8(1, 0, torch.float32, "_scale")
        ),
        "FP8, one scale": Format(BLOCK | {"weight_block_size": None}, fp8(0, 0, torch.float32, "_scale_inv")),
        "GPTQ, 8 bits": Format(GPTQ | {"bits": 8, "group_size": group}, gptq(8, group, 1)),
        "GPTQ, 4 bits": Format(GPTQ | {"group_size": group}, gptq(4, group, 1)),
        "AWQ, 4 bits": Format(
            {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}, awq_of(group)
        ),
        "W4A16": Format(compressed("pack-quantized", symmetric=True, **int4), packed(4, group, symmetric=True)),
    }


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--group", type=int, default=32, help="columns of a group of whole numbers")
    parser.add_argument("--tokens", type=int, default=4096)
    args = parser.parse_args()
    model = tiny_opt_path()
    chunks = list(cut(model, python_topics(), args.tokens, 64))
    plain = likelihoods(model, {}, chunks, 16, "cpu", "float32")
    print(f"{model.name}, {plain.numel()} tokens of Python's help, float32, torch {torch.__version__}")
    print("| format | perplexity | against 16 bits | against its own numbers |\n|---|---|---|---|")
    print(f"| as stored | {perplexity_of(plain):.3f} | | |", flush=True)
    for name, form in formats(args.group).items():
        with tempfile.TemporaryDirectory() as scratch:
            place = quantise(model, Path(scratch) / "coded", form)
            for directory in (place, place / "plain"):
                for file in ("tokenizer.json", "tokenizer_config.json"):
                    (directory / file).write_bytes((model / file).read_bytes())
            ours, theirs = (likelihoods(where, {}, chunks, 16, "cpu", "float32") for where in (place, place / "plain"))
        found = perplexity_of(ours)
        against = 100 * (found / perplexity_of(plain) - 1)
        print(f"| {name} | {found:.3f} | {against:+.2f} % | {float((ours - theirs).abs().max()):.1e} |", flush=True)


def perplexity_of(likely: torch.Tensor) -> float:
    return float((-likely.mean()).exp())


if __name__ == "__main__":
    main()
