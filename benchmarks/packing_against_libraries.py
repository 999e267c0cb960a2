"""Packing a layer's weights into 4 bits and unpacking them, beside the libraries that do it: seconds, errors, bytes.

    python benchmarks/packing_against_libraries.py                                            # OPT-30B's layer, CUDA
    python benchmarks/packing_against_libraries.py --model facebook/opt-1.3b --device cpu

Compared is what of these is installed (pip install --no-deps torchao compressed-tensors gguf loguru):

    torchao             affine primitives, a byte a code; NF4, two codes a byte
    compressed-tensors  the packed-quantized format, eight codes an int32
    gguf                Q4_0 and Q4_1, groups of 32; numpy, so on the host alone

Each takes random matrices of the layer's shapes, normal with standard deviation 1, and gives back numbers of the same
dtype.  GB/s are of the packed bytes and the numbers together: one side is read, the other written.  The fastest of
several runs counts; on the host it is processor time of one core.  flexplan unpacks into a place that is there already,
the others return a new tensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import common
import torch
from flexplan_runtime.weights import unpack
from flexplan_runtime.weights.packed import pack
from torch import Tensor

from flexplan.model import WeightTensor, read_model, weight_tensors
from flexplan.policy import CompressionConfig, Policy

BITS, GROUP = 4, 64
Packed = Any  # whatever a library keeps


@dataclass(frozen=True)
class Method:
    """A way to pack a matrix of a layer, of this name, and to unpack it again."""

    name: str
    pack: Callable[[str, Tensor], Packed]
    unpack: Callable[[Packed], Tensor]
    nbytes: Callable[[Packed], int]


def main() -> None:
    parser = common.parser(__doc__, model="facebook/opt-30b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="unpack by torch.compile, too, where torch unpacks")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    if args.device == "cpu":
        torch.set_num_threads(1)
    tensors = layer_of(args.model, group_dim=1)
    torch.manual_seed(0)
    plain = {t.name: torch.randn(t.rows, t.cols, device=args.device, dtype=dtype) for t in tensors}
    what = f"{sum(x.numel() for x in plain.values()) / 1e6:.0f} million weights in {args.dtype} on {args.device}"
    print(f"{args.model}, one layer: {what}, torch {torch.__version__}")
    print(f"{'':36}{'pack':>12}{'GB/s':>8}{'unpack':>12}{'GB/s':>8}  max error  rms error  bytes a weight")
    for method in methods(args.model, args.device, dtype, args.compile):
        try:
            pack_s, pack_rate, unpack_s, unpack_rate, most, rms, nbytes = measured(method, plain, args.runs)
        except torch._dynamo.exc.TorchDynamoException as error:  # a library that the compiler does not take
            print(f"{method.name:36}is not compiled: {type(error).__name__}", flush=True)
            continue
        row = f"{method.name:36}{pack_s:>12}{pack_rate:>8}{unpack_s:>12}{unpack_rate:>8}{most:>11}{rms:>11}{nbytes:>16}"
        print(row, flush=True)


def layer_of(model: str, group_dim: int) -> list[WeightTensor]:
    """The packed matrices of the first layer."""
    shape, _ = read_model(model)
    policy = Policy(compress_weight=True, comp_weight_config=CompressionConfig(BITS, GROUP, group_dim))
    return [t for t in weight_tensors(shape.with_dtype(2), policy.weight_packing(2)) if t.layer == 0 and t.packing]


# -- who packs ---------------------------------------------------------------------------------------------------------
def methods(model: str, device: str, dtype: torch.dtype, compiled: bool) -> Iterator[Method]:
    """flexplan, and all that is installed; the others are named."""
    for group_dim in (0, 1):
        yield flexplan(model, group_dim, device, dtype)
    for name, found in (("torchao", torchao), ("compressed-tensors", compressed_tensors), ("gguf", gguf)):
        if name == "gguf" and device != "cpu":
            print("gguf is numpy: not measured on this device")
            continue
        try:
            yield from with_compiled(found(dtype)) if compiled and name != "gguf" else found(dtype)
        except ImportError as error:
            print(f"{name} is not measured: {error}")


def with_compiled(found: Iterator[Method]) -> Iterator[Method]:
    """Each as it is, and unpacking by torch.compile."""
    for method in found:
        yield method
        unpack_fast = torch.compile(method.unpack, dynamic=False)
        yield Method(f"{method.name}, compiled", method.pack, unpack_fast, method.nbytes)


def flexplan(model: str, group_dim: int, device: str, dtype: torch.dtype) -> Method:
    own = {t.name: t for t in layer_of(model, group_dim)}
    places = {name: torch.empty(t.rows, t.cols, device=device, dtype=dtype) for name, t in own.items()}

    def packed(name: str, x: Tensor) -> tuple[str, Tensor]:
        data = torch.empty(own[name].nbytes, dtype=torch.uint8, device=device)
        pack(x, own[name], data)
        return name, data

    def unpacked(of: tuple[str, Tensor]) -> Tensor:
        name, data = of
        unpack(data, own[name], places[name])
        return places[name]

    return Method(f"flexplan, group_dim {group_dim}", packed, unpacked, lambda of: of[1].nbytes)


def torchao(dtype: torch.dtype) -> Iterator[Method]:
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

    name, block, levels = f"torchao {version('torchao')}", (1, GROUP), (0, 2**BITS - 1)

    def packed(_: str, x: Tensor) -> tuple[Tensor, ...]:
        scale, zero = choose_qparams_affine(
            x, MappingType.ASYMMETRIC, block, torch.uint8, *levels, scale_dtype=dtype, zero_point_dtype=torch.uint8
        )
        return quantize_affine(x, block, scale, zero, torch.uint8, *levels), scale, zero

    def unpacked(data: tuple[Tensor, ...]) -> Tensor:
        codes, scale, zero = data
        return dequantize_affine(codes, block, scale, zero, torch.uint8, *levels, output_dtype=dtype)

    yield Method(f"{name}, affine", packed, unpacked, lambda data: sum(part.nbytes for part in data))
    try:
        from torchao.quantization.quantize_.workflows.nf4.nf4_tensor import to_nf4
    except ImportError:
        from torchao.dtypes.nf4tensor import to_nf4  # until 0.17

    def parts_bytes(data: Any) -> int:
        names, _ = data.__tensor_flatten__()
        return sum(getattr(data, name).nbytes for name in names)

    yield Method(f"{name}, NF4", lambda _, x: to_nf4(x, GROUP), lambda data: data.get_original_weight(), parts_bytes)


def compressed_tensors(dtype: torch.dtype) -> Iterator[Method]:
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    kind = QuantizationArgs(num_bits=BITS, group_size=GROUP, strategy="group", symmetric=False)
    scheme = QuantizationScheme(targets=["Linear"], weights=kind)

    def packed(_: str, x: Tensor) -> dict[str, Tensor]:
        groups = x.unflatten(1, (-1, GROUP))
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), kind)
        state = {"weight": x, "weight_scale": scale, "weight_zero_point": zero}
        return PackedQuantizationCompressor.compress(state, scheme)

    def unpacked(data: dict[str, Tensor]) -> Tensor:
        return PackedQuantizationCompressor.decompress(data, scheme)["weight"]

    name = f"compressed-tensors {version('compressed-tensors')}"
    yield Method(name, packed, unpacked, lambda data: sum(part.nbytes for part in data.values()))


def gguf(dtype: torch.dtype) -> Iterator[Method]:
    from gguf import GGMLQuantizationType as Kind
    from gguf import quants

    for kind in (Kind.Q4_0, Kind.Q4_1):

        def packed(_: str, x: Tensor, kind: Any = kind) -> Any:
            return quants.quantize(x.float().numpy(), kind)

        def unpacked(data: Any, kind: Any = kind) -> Tensor:
            return torch.from_numpy(quants.dequantize(data, kind)).to(dtype)

        yield Method(f"gguf {version('gguf')}, {kind.name}", packed, unpacked, lambda data: data.nbytes)


# -- what is measured --------------------------------------------------------------------------------------------------
def measured(method: Method, plain: dict[str, Tensor], runs: int) -> list[str]:
    """The figures of a row."""
    packed = [method.pack(*item) for item in plain.items()]
    packing_s = common.fastest(lambda: [method.pack(*item) for item in plain.items()], runs, now)
    unpacking_s = common.fastest(lambda: [method.unpack(data) for data in packed], runs, now)
    kept, weights = sum(map(method.nbytes, packed)), sum(x.numel() for x in plain.values())
    moved = kept + sum(x.nbytes for x in plain.values())
    most = square = 0.0
    for x, data in zip(plain.values(), packed, strict=True):
        back = method.unpack(data)
        assert (back.shape, back.dtype) == (x.shape, x.dtype)
        off = back.float() - x.float()
        most, square = max(most, float(off.abs().max())), square + float(off.square().sum())
    seconds = (text for s in (packing_s, unpacking_s) for text in (f"{1e3 * s:.2f} ms", f"{moved / s / 1e9:.2f}"))
    return [*seconds, f"{most:.3f}", f"{(square / weights) ** 0.5:.4f}", f"{kept / weights:.4f}"]


def now() -> float:
    """Seconds when all that was queued on the device is done; on the host, of the processor."""
    if not torch.cuda.is_initialized():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
