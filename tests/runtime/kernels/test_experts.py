"""A mixture of experts in two kernels gives what its experts give one by one.

On a GPU, or with TRITON_INTERPRET=1 wherever Triton is installed.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_models import CONFIGS, our_logits, reference_logits, saved
from torch import Tensor
from triton_device import CUDA, DEVICE, DTYPES, MARKS

pytest.importorskip("triton", reason="no Triton")
pytestmark = MARKS

from flexplan_runtime.kernels.expert_rows import SILU, Gate, row_table
from flexplan_runtime.kernels.experts import experts_cuda
from flexplan_runtime.models import mixture
from flexplan_runtime.models.mixture import Mixture

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def weights(num_experts: int, rows: int, cols: int, cuts: list[int], dtype: torch.dtype) -> list[list[Tensor]]:
    """Experts' weights, each cut at these rows into pieces of memories of their own, with a gap between experts."""
    found = []
    for _ in range(num_experts):
        whole = (torch.randn(rows, cols, device=DEVICE) / cols**0.5).to(dtype)
        bounds = [0, *cuts, rows]
        found.append([whole[lo:hi].clone() for lo, hi in pairwise(bounds)])
    return found


def biases(num_experts: int, rows: int, dtype: torch.dtype) -> list[list[Tensor]]:
    """Of each expert, in memory of its own."""
    return [[torch.randn(rows, device=DEVICE).to(dtype)] for _ in range(num_experts)]


def gated(both: Tensor, gate: Gate) -> Tensor:
    """The definition, of one token's first product."""
    if not gate.alpha:
        opens, lets = both.chunk(2)
        return F.silu(opens) * lets
    opens, lets = both[::2], both[1::2]
    if gate.limit:
        opens, lets = opens.clamp(max=gate.limit), lets.clamp(-gate.limit, gate.limit)
    return opens * torch.sigmoid(gate.alpha * opens) * (lets + 1)


def one_by_one(
    x: Tensor,
    gates: Tensor,
    experts: Tensor,
    gate_up: list[list[Tensor]],
    down: list[list[Tensor]],
    gate: Gate = SILU,
    added: tuple[list[list[Tensor]], list[list[Tensor]]] | None = None,
) -> Tensor:
    out = torch.zeros_like(x, dtype=torch.float64)
    for token, row in enumerate(experts.tolist()):
        for n, expert in enumerate(row):
            both = torch.cat(gate_up[expert]).double() @ x[token].double()
            both = both if added is None else both + added[0][expert][0].double()
            found = torch.cat(down[expert]).double() @ gated(both, gate)
            found = found if added is None else found + added[1][expert][0].double()
            out[token] += gates[token, n].double() * found
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "num_experts", "each"), [(1, 8, 2), (37, 4, 2), (200, 2, 2)])
@pytest.mark.parametrize("limit", [1.5, 0.0])
def test_gates_that_end_and_biases(dtype: torch.dtype, tokens: int, num_experts: int, each: int, limit: float) -> None:
    """Those of gpt-oss: gates and ups in turns, both within a limit, nothing let through as it is."""
    torch.manual_seed(tokens)
    width, ffn, gate = 136, 72, Gate(1.702, limit)
    gate_up, down = weights(num_experts, 2 * ffn, width, [64], dtype), weights(num_experts, width, ffn, [], dtype)
    added = biases(num_experts, 2 * ffn, dtype), biases(num_experts, width, dtype)
    x = torch.randn(tokens, width, device=DEVICE).to(dtype)
    gates, experts = torch.randn(tokens, num_experts, device=DEVICE).softmax(-1).topk(each)
    tables = row_table(gate_up, added[0]), row_table(down, added[1])
    assert tables[0] is not None and tables[1] is not None
    found = experts_cuda(x, gates, experts, tables[0], tables[1], gate)
    expected = one_by_one(x, gates, experts, gate_up, down, gate, added)
    torch.testing.assert_close(found.double(), expected, rtol=3 * TOLERANCE[dtype], atol=3 * TOLERANCE[dtype])
    x[0, 0] = float("nan")  # a limit hides nothing
    assert experts_cuda(x, gates, experts, tables[0], tables[1], gate)[0].isnan().all()


@pytest.mark.skipif(CUDA, reason="there all tests of tokens run on these kernels")
@pytest.mark.parametrize("name", ["gpt-oss", "qwen3 with experts", "glm4 with experts"])
def test_logits_are_those_of_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = saved(CONFIGS[name], tmp_path), torch.randint(0, 99, (2, 9))
    computed = []
    monkeypatch.setattr(Mixture, "_one_by_one", None)
    monkeypatch.setattr(mixture, "compiles_for", lambda x: computed.append(x) or True)
    torch.testing.assert_close(our_logits(tmp_path, ids), reference_logits(model, ids), atol=1e-4, rtol=1e-4)
    assert computed


def test_pieces_that_part_within_a_group_have_no_table() -> None:
    assert row_table(weights(2, 200, 64, [100], torch.float32)) is None
    assert row_table(weights(2, 200, 64, [128], torch.float32)) is not None
    assert row_table(weights(2, 200, 6, [], torch.bfloat16)) is None
