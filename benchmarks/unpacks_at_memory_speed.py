"""Unpacking the 4-bit weights of one layer on the GPU, in GB/s read and written, beside the reference's kernel.

    python benchmarks/unpacks_at_memory_speed.py --model facebook/opt-30b

The reference (package flexgen 0.1.8) is measured where it is installed, on the same matrices in its own layout.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import common
import torch
from flexplan_runtime.weights import unpack
from flexplan_runtime.weights.packed import pack

from flexplan.model import WeightTensor, read_model, weight_tensors
from flexplan.policy import CompressionConfig, Policy


def main() -> None:
    parser = common.parser(__doc__, model="facebook/opt-30b")
    parser.add_argument("--group-dim", type=int, default=0)
    args = parser.parse_args()
    shape, _ = read_model(args.model)
    policy = Policy(compress_weight=True, comp_weight_config=CompressionConfig(4, 64, args.group_dim))
    layer = [t for t in weight_tensors(shape.with_dtype(2), policy.weight_packing(2)) if t.layer == 0 and t.packing]
    moved = sum(t.nbytes + t.unpacked_bytes for t in layer)
    plain, copy = copied(layer)
    ours = common.gpu_seconds(ours_of(layer))
    print(f"{args.model}, one layer: {sum(t.unpacked_bytes for t in layer) / 1e9:.2f} GB in float16, packed in 4 bits")
    print(f"a plain copy on the device   {plain / common.gpu_seconds(copy) / 1e9:7.0f} GB/s read and written")
    print(f"flexplan                     {moved / ours / 1e9:7.0f} GB/s   {1e3 * ours:.3f} ms")
    if find_spec("flexgen") is None:
        print("the reference is not installed: pip install flexgen==0.1.8")
        return
    theirs = common.gpu_seconds(reference_of(layer))
    print(
        f"flexgen 0.1.8                {moved / theirs / 1e9:7.0f} GB/s   {1e3 * theirs:.3f} ms, {theirs / ours:.1f}x"
    )


def random_matrix(tensor: WeightTensor) -> torch.Tensor:
    return torch.empty(tensor.rows, tensor.cols, dtype=torch.float16, device="cuda").normal_()


def ours_of(layer: list[WeightTensor]) -> Callable[[], None]:
    """Unpacks every matrix of the layer into its place."""
    parts = []
    for tensor in layer:
        data = torch.empty(tensor.nbytes, dtype=torch.uint8, device="cuda")
        pack(random_matrix(tensor), tensor, data)
        parts.append((data, tensor, torch.empty(tensor.rows, tensor.cols, dtype=torch.float16, device="cuda")))

    def act() -> None:
        for data, tensor, out in parts:
            unpack(data, tensor, out)

    return act


def copied(layer: list[WeightTensor]) -> tuple[int, Callable[[], None]]:
    """A copy of as many bytes as the layer unpacked."""
    source = torch.empty(sum(t.unpacked_bytes for t in layer), dtype=torch.uint8, device="cuda")
    out = torch.empty_like(source)

    def act() -> None:
        out.copy_(source)

    return 2 * source.nbytes, act


def reference_of(layer: list[WeightTensor]) -> Callable[[], None]:
    """The same by the reference."""
    from flexgen import flex_opt  # its modules import each other in circles: this one has to be first

    device, config = flex_opt.TorchDevice("cuda:0"), flex_opt.CompressionConfig(4, 64, 0, False)
    packed = [device.compressed_device.compress(random_matrix(tensor), config) for tensor in layer]

    def act() -> None:
        for tensor in packed:
            device.compressed_device.decompress(tensor)

    return act


if __name__ == "__main__":
    main()
