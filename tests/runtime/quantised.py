"""Quantised checkpoints, written from a model's weights by the published layouts, beside what they stand for.

Each encoder takes a matrix (R outputs, C inputs) and gives the tensors that its layout stores, and the matrix that
they mean.  A matrix is quantised as plainly as can be; what counts is that both are of the same codes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Stored = dict[str, Tensor]
Encode = Callable[[str, Tensor], tuple[Stored, Tensor]]
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which output lies in each place of 32 bits
GROUP = 16


class Format(NamedTuple):
    """What stands in config.json, and how a matrix is encoded; `wanted` says which of them."""

    config: dict[str, Any]
    encode: Encode
    wanted: Callable[[str], bool] = lambda name: name.endswith(("_proj.weight", "fc1.weight", "fc2.weight"))


def quantise(source: Path, target: Path, form: Format) -> Path:
    """`source`, a model directory, in a format; the model that it stands for is in `target` / "plain", in float32."""
    plain = target / "plain"
    plain.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    coded, meant = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if form.wanted(name):
            stored, numbers = form.encode(name, tensor.float())
            coded |= {key: value.contiguous() for key, value in stored.items()}
            meant[name] = numbers.contiguous()
        else:
            coded[name] = meant[name] = tensor
    save_file(coded, target / "model.safetensors", metadata={"format": "pt"})
    save_file(meant, plain / "model.safetensors", metadata={"format": "pt"})
    (plain / "config.json").write_text(json.dumps(config))
    (target / "config.json").write_text(json.dumps(config | {"quantization_config": form.config}))
    return target


# -- small floats ------------------------------------------------------------------------------------------------------
def fp8(rows: int, cols: int, dtype: torch.dtype, ending: str) -> Encode:
    """FP8, one scale for so many rows and columns; 0 for all of them."""

    def encode(name: str, x: Tensor) -> tuple[Stored, Tensor]:
        r, c = rows or len(x), cols or x.shape[1]
        grid = torch.zeros(-(-len(x) // r), -(-x.shape[1] // c))
        for i in range(grid.shape[0]):
            for j in range(grid.shape[1]):
                grid[i, j] = x[i * r : (i + 1) * r, j * c : (j + 1) * c].abs().max() / 448
        grid = grid.to(dtype)
        each = grid.float().repeat_interleave(r, 0).repeat_interleave(c, 1)[: len(x), : x.shape[1]]
        codes = (x / each).to(torch.float8_e4m3fn)
        stored = grid if rows != 0 else grid.reshape(1)
        return {name: codes, f"{name}{ending}": stored}, codes.float() * each

    return encode


def mxfp4(name: str, x: Tensor) -> tuple[Stored, Tensor]:
    """Experts fused, (E, R, C): 32 columns share a power of two, the largest of them being 4 to 8 times it."""
    grouped = x.unflatten(-1, (-1, 32))
    power = torch.frexp(grouped.abs().amax(-1)).exponent - 3
    scaled = torch.ldexp(grouped, -power[..., None])
    nearest = (scaled.abs()[..., None] - E2M1).abs().argmin(-1).to(torch.uint8)
    codes = nearest | ((scaled < 0) << 3).to(torch.uint8)
    blocks = codes[..., ::2] | codes[..., 1::2] << 4
    meant = torch.ldexp(E2M1[nearest.long()] * torch.where(scaled < 0, -1, 1), power[..., None]).flatten(-2)
    return {f"{name}_blocks": blocks, f"{name}_scales": (power + 127).to(torch.uint8)}, meant


# -- whole numbers -----------------------------------------------------------------------------------------------------
def rounded(x: Tensor, bits: int, group: int, dtype: torch.dtype, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (R, C), scales (R, G) and zeros (R, G) of groups along the rows."""
    size = group or x.shape[1]
    grouped, most = x.unflatten(-1, (-1, size)), (1 << bits) - 1
    low, high = grouped.amin(-1), grouped.amax(-1)
    if symmetric:
        scales = (2 * grouped.abs().amax(-1) / most).to(dtype)
        zeros = torch.full(scales.shape, 1 << (bits - 1))
    else:
        scales = ((high - low) / most).to(dtype)
        zeros = (-low / scales.float()).round().clamp(1, most).long()
    codes = (grouped / scales.float()[..., None] + zeros[..., None]).round().clamp(0, most).long()
    return codes.flatten(-2), scales, zeros


def numbers(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    size = codes.shape[1] // scales.shape[1]
    return ((codes.unflatten(-1, (-1, size)) - zeros[..., None]) * scales.float()[..., None]).flatten(-2)


def words(codes: Tensor, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """(A, B) whole numbers, neighbours of a row together in 32 bits."""
    many = 32 // bits
    grouped = torch.nn.functional.pad(codes, (0, -codes.shape[1] % many)).unflatten(-1, (-1, many))
    if order:
        grouped = grouped[..., list(order)]
    packed = (grouped.long() << (torch.arange(many) * bits)).sum(-1)
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)


def gptq(bits: int, group: int, less: int) -> Encode:
    """Down the inputs; zeros less one in version 1."""

    def encode(name: str, x: Tensor) -> tuple[Stored, Tensor]:
        codes, scales, zeros = rounded(x, bits, group, torch.float16, symmetric=False)
        stem = name.removesuffix(".weight")
        stored = {
            f"{stem}.qweight": words(codes, bits).T,
            f"{stem}.qzeros": words(zeros.T - less, bits),
            f"{stem}.scales": scales.T,
            f"{stem}.g_idx": (torch.arange(x.shape[1]) // (group or x.shape[1])).to(torch.int32),
        }
        return stored, numbers(codes, scales, zeros)

    return encode


def awq_of(group: int) -> Encode:
    """Down the inputs, the outputs in AWQ's order."""

    def encode(name: str, x: Tensor) -> tuple[Stored, Tensor]:
        codes, scales, zeros = rounded(x, 4, group, torch.float16, symmetric=False)
        stem = name.removesuffix(".weight")
        stored = {
            f"{stem}.qweight": words(codes.T, 4, AWQ_ORDER),
            f"{stem}.qzeros": words(zeros.T, 4, AWQ_ORDER),
            f"{stem}.scales": scales.T,
        }
        return stored, numbers(codes, scales, zeros)

    return encode


def packed(bits: int, group: int, symmetric: bool) -> Encode:
    """compressed-tensors' "pack-quantized": numbers around the middle are stored from 0 on, as others are."""

    def encode(name: str, x: Tensor) -> tuple[Stored, Tensor]:
        codes, scales, zeros = rounded(x, bits, group, torch.bfloat16, symmetric)
        stored = {
            f"{name}_packed": words(codes, bits),
            f"{name}_scale": scales,
            f"{name}_shape": torch.tensor(x.shape),
        }
        if not symmetric:
            stored[f"{name}_zero_point"] = words(zeros.T, bits).T
        return stored, numbers(codes, scales, zeros)

    return encode


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    """The config of compressed-tensors, as its models publish it."""
    group = {"targets": ["Linear"], "weights": {"dynamic": False, "observer": "minmax"} | weights}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group | {"input_activations": None, "output_activations": None}},
        "ignore": ["lm_head", "re:.*mlp.gate$"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
        "global_compression_ratio": 1.5,
    }


BLOCK = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "modules_to_not_convert": ["lm_head"]}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False, "damp_percent": 0.01}
FORMATS: dict[str, Format] = {
    "fp8 blocks": Format(BLOCK | {"weight_block_size": [12, 20]}, fp8(12, 20, torch.float32, "_scale_inv")),
    "fp8 blocks, scales in bfloat16": Format(
        BLOCK | {"weight_block_size": [16, 16]}, fp8(16, 16, torch.bfloat16, "_scale_inv")
    ),
    "fp8, one scale": Format(BLOCK | {"weight_block_size": None}, fp8(0, 0, torch.float32, "_scale_inv")),
    "fp8, a scale a row": Format(
        compressed("float-quantized", type="float", num_bits=8, strategy="channel", symmetric=True),
        fp8(1, 0, torch.bfloat16, "_scale"),
    ),
    "gptq": Format(GPTQ, gptq(4, GROUP, 1)),
    "gptq, 8 bits, version 2": Format(
        GPTQ | {"bits": 8, "group_size": -1, "checkpoint_format": "gptq_v2"}, gptq(8, 0, 0)
    ),
    "awq": Format(
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}, awq_of(GROUP)
    ),
    "w4a16": Format(
        compressed("pack-quantized", type="int", num_bits=4, strategy="group", group_size=GROUP, symmetric=True),
        packed(4, GROUP, symmetric=True),
    ),
    "w8a16 with zeros": Format(
        compressed("pack-quantized", type="int", num_bits=8, strategy="channel", symmetric=False),
        packed(8, 0, symmetric=False),
    ),
}
EXPERTS = Format(
    {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
    mxfp4,
    lambda name: name.endswith(("gate_up_proj", "down_proj")),
)
