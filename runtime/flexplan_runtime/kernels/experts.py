"""A mixture of experts in two kernels, whatever the router chose: nothing waits for the host to count tokens.

Slots are (token, one of its experts), sorted by expert on the device.  A program takes some slots of one expert and
some outputs; which expert that is it finds in the running sum of the experts' slots, so that the launch is the same
for every choice, and may be captured.  Weights lie in row pieces of two memories or more: where each group of rows
begins is read from a table of addresses.

Shapes, by letter: T tokens, D hidden, F feed-forward, X experts, A experts per token, M = T x A slots.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from flexplan_runtime.kernels.expert_rows import GROUP, SILU, UNIT, Gate, RowTable


def experts_cuda(
    x_TD: Tensor, gates_TA: Tensor, experts_TA: Tensor, gate_up: RowTable, down: RowTable, gate: Gate = SILU
) -> Tensor:
    """(T, D): each token through its experts, ``down(gated(gate(x), up(x)))``, weighted by its gates (float32)."""
    tokens, width = x_TD.shape
    num_experts, slots = len(gate_up.units_XG), experts_TA.numel()
    chosen_M = experts_TA.flatten()
    order_M = chosen_M.argsort(stable=True)
    tile = _tile(slots, num_experts)
    counts_X = torch.zeros(num_experts, dtype=torch.int64, device=x_TD.device)
    counts_X.scatter_add_(0, chosen_M, torch.ones_like(chosen_M))
    ends_X, blocks_X = counts_X.cumsum(0), ((counts_X + tile["BM"] - 1) // tile["BM"]).cumsum(0)
    ffn = down.base.shape[1]
    hidden_MF, parts_MD = x_TD.new_empty(slots, ffn), x_TD.new_empty(slots, width)
    shared = {"X": num_experts, "X_PAD": triton.next_power_of_2(num_experts), "UNIT": UNIT // x_TD.element_size()}
    for first, table, source, out, outputs in (
        (True, gate_up, x_TD, hidden_MF, ffn),
        (False, down, hidden_MF, parts_MD, width),
    ):
        grid = (min(slots, slots // tile["BM"] + num_experts), triton.cdiv(outputs, tile["BN"]))
        _experts[grid](
            source, table.base, table.units_XG, table.bias, table.biases_X, ends_X, blocks_X, order_M, gates_TA, out,
            outputs, source.shape[1], table.units_XG.shape[1], A=experts_TA.shape[1], FIRST=first, GROUP=GROUP,
            BIASED=table.bias is not None, ALPHA=gate.alpha if first else 0.0, LIMIT=gate.limit, **shared, **tile,
        )  # fmt: skip
    return parts_MD.view(tokens, -1, width).sum(1, dtype=torch.float32).to(x_TD.dtype)


def _tile(slots: int, num_experts: int) -> dict[str, Any]:
    """Slots, outputs and depth of a program, by how many slots an expert has: few read a weight, many compute."""
    each = slots // num_experts
    if each <= 16:
        return {"BM": 16, "BN": 64, "BK": 128, "num_warps": 4, "num_stages": 4}
    if each <= 64:
        return {"BM": 64, "BN": 64, "BK": 64, "num_warps": 4, "num_stages": 4}
    return {"BM": 128, "BN": 128, "BK": 64, "num_warps": 8, "num_stages": 3}


@triton.jit
def _rows(w, units, expert, cols, outputs, K, groups, UNIT: tl.constexpr, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Pointers to the first element of rows ``cols`` of an expert's weight."""
    unit = tl.load(units + expert * groups + cols // GROUP, mask=cols < outputs, other=0)
    return w + (unit * UNIT + (cols % GROUP).to(tl.int64) * K)


@triton.jit
def _silu_gated(gate, up, kind: tl.constexpr):  # type: ignore[no-untyped-def]
    """silu(gate) * up; rounded where the framework's operations round."""
    opened = (gate / (1 + tl.exp(-gate))).to(kind).to(tl.float32)
    return opened * up


@triton.jit
def _limited_gated(gate, up, ALPHA: tl.constexpr, LIMIT: tl.constexpr, kind: tl.constexpr):  # type: ignore[no-untyped-def]
    """gate * sigmoid(alpha * gate) * (up + 1), both within the limit; what is no number stays none."""
    if LIMIT > 0:
        gate = tl.where(gate > LIMIT, LIMIT, gate)
        up = tl.where(up > LIMIT, LIMIT, tl.where(up < -LIMIT, -LIMIT, up))
    steep = (gate * ALPHA).to(kind).to(tl.float32)
    opened = (1 / (1 + tl.exp(-steep))).to(kind).to(tl.float32)
    opened = (opened * gate).to(kind).to(tl.float32)
    return opened * (up + 1).to(kind).to(tl.float32)


@triton.jit
def _experts(  # type: ignore[no-untyped-def]
    x, w, units, bias, biases, ends, blocks, order, gates, out, outputs, K, groups,
    A: tl.constexpr, FIRST: tl.constexpr, GROUP: tl.constexpr, X: tl.constexpr, X_PAD: tl.constexpr,
    UNIT: tl.constexpr, BIASED: tl.constexpr, ALPHA: tl.constexpr, LIMIT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Some slots of one expert times some rows of its weight; the first product is gated, the second weighted."""
    block = tl.program_id(0)
    every = tl.arange(0, X_PAD)
    until = tl.load(blocks + every, mask=every < X, other=1 << 60)
    expert = tl.sum((until <= block).to(tl.int32))
    if expert >= X:
        return
    before = tl.sum(tl.where(every == expert - 1, until, 0))
    end = tl.load(ends + expert)
    start = tl.load(ends + expert - 1, mask=expert > 0, other=0)
    place = start + (block - before) * BM + tl.arange(0, BM)
    is_slot = place < end
    slot = tl.load(order + place, mask=is_slot, other=0)
    row = (slot // A) if FIRST else place
    depth = tl.arange(0, BK)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    x_at = x + row[:, None] * K + depth[None, :]
    is_col = cols < outputs
    rows = 2 * cols if ALPHA > 0 else cols  # gates; what they let through is the next row, or a half behind
    up_rows = rows + 1 if ALPHA > 0 else cols + outputs
    every_row = 2 * outputs if FIRST else outputs
    w_at = _rows(w, units, expert, rows, every_row, K, groups, UNIT, GROUP)[:, None] + depth[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    if FIRST:
        up_at = _rows(w, units, expert, up_rows, every_row, K, groups, UNIT, GROUP)[:, None] + depth[None, :]
        up = tl.zeros((BM, BN), tl.float32)
    for at in range(0, K, BK):
        inside = at + depth < K
        given = tl.load(x_at + at, mask=is_slot[:, None] & inside[None, :], other=0.0)
        weight = tl.load(w_at + at, mask=is_col[:, None] & inside[None, :], other=0.0)
        acc = tl.dot(given, tl.trans(weight), acc, input_precision="ieee")
        if FIRST:
            weight = tl.load(up_at + at, mask=is_col[:, None] & inside[None, :], other=0.0)
            up = tl.dot(given, tl.trans(weight), up, input_precision="ieee")
    kind: tl.constexpr = out.dtype.element_ty
    if BIASED:
        mine = bias + tl.load(biases + expert)
        acc += tl.load(mine + rows, mask=is_col, other=0.0).to(tl.float32)[None, :]
        if FIRST:
            up += tl.load(mine + up_rows, mask=is_col, other=0.0).to(tl.float32)[None, :]
    if FIRST:
        gate, up = acc.to(kind).to(tl.float32), up.to(kind).to(tl.float32)
        done = _limited_gated(gate, up, ALPHA, LIMIT, kind) if ALPHA > 0 else _silu_gated(gate, up, kind)
        to = place
    else:
        done = acc.to(kind).to(tl.float32) * tl.load(gates + slot, mask=is_slot, other=0.0)[:, None]
        to = slot
    tl.store(out + to[:, None] * outputs + cols[None, :], done.to(kind), mask=is_slot[:, None] & is_col[None, :])
