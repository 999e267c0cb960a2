"""A mixture of experts in two kernels gives what its experts give one by one.

On a GPU, or with TRITON_INTERPRET=1 wherever Triton is installed.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_device import DEVICE, DTYPES, MARKS

pytest.importorskip("triton", reason="no Triton")
pytestmark = MARKS

from flexplan_runtime.kernels.expert_rows import row_table
from flexplan_runtime.kernels.experts import experts_cuda

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def weights(num_experts: int, rows: int, cols: int, cuts: list[int], dtype: torch.dtype) -> list[list[Tensor]]:
    """Experts' weights, each cut at these rows into pieces of memories of their own, with a gap between experts."""
    found = []
    for _ in range(num_experts):
        whole = (torch.randn(rows, cols, device=DEVICE) / cols**0.5).to(dtype)
        bounds = [0, *cuts, rows]
        found.append([whole[lo:hi].clone() for lo, hi in pairwise(bounds)])
    return found


def one_by_one(
    x: Tensor, gates: Tensor, experts: Tensor, gate_up: list[list[Tensor]], down: list[list[Tensor]]
) -> Tensor:
    out = torch.zeros_like(x, dtype=torch.float64)
    for token, row in enumerate(experts.tolist()):
        for n, expert in enumerate(row):
            both = torch.cat(gate_up[expert]).double() @ x[token].double()
            gate, up = both.chunk(2)
            out[token] += gates[token, n].double() * (torch.cat(down[expert]).double() @ (F.silu(gate) * up))
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "num_experts", "each"), [(1, 8, 2), (7, 4, 2), (130, 4, 2), (33, 6, 3), (600, 2, 1)]
)
@pytest.mark.parametrize("cuts", [[], [64], [64, 128]])
def test_together_as_one_by_one(dtype: torch.dtype, tokens: int, num_experts: int, each: int, cuts: list[int]) -> None:
    torch.manual_seed(tokens)
    width, ffn = 136, 72
    gate_up = weights(num_experts, 2 * ffn, width, cuts, dtype)
    down = weights(num_experts, width, ffn, cuts, dtype)
    x = torch.randn(tokens, width, device=DEVICE).to(dtype)
    probs = torch.randn(tokens, num_experts, device=DEVICE)
    probs[:, 0] += 2  # most go to one
    gates, experts = probs.softmax(-1).topk(each)
    tables = row_table(gate_up), row_table(down)
    assert tables[0] is not None and tables[1] is not None
    found = experts_cuda(x, gates, experts, tables[0], tables[1])
    expected = one_by_one(x, gates, experts, gate_up, down)
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_pieces_that_part_within_a_group_have_no_table() -> None:
    assert row_table(weights(2, 200, 64, [100], torch.float32)) is None
    assert row_table(weights(2, 200, 64, [128], torch.float32)) is not None
    assert row_table(weights(2, 200, 6, [], torch.bfloat16)) is None
