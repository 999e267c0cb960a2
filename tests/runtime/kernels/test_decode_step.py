"""The small kernels of a step give the numbers of the framework's operations.

On a GPU, or with TRITON_INTERPRET=1 wherever Triton is installed.
"""

from __future__ import annotations

from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from triton_device import CUDA, DEVICE, DTYPES, MARKS

pytest.importorskip("triton", reason="no Triton")
pytestmark = MARKS

from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.attention.dense import grain_attention
from flexplan_runtime.attention.ring import unrolled
from flexplan_runtime.attention.scored import scored_attention
from flexplan_runtime.kernels.attention_rule import AttentionRule
from flexplan_runtime.kernels.decode_attention import decode_attention_cuda
from flexplan_runtime.kernels.decode_step import gate_cuda, norm_cuda, put_pairs_cuda, turn_cuda
from flexplan_runtime.models.rope import Rotary, rotate

from flexplan.model import ModelConstants, read_model
from flexplan.model.constants import RopeScaling
from flexplan.testing import policy_with

ULPS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def near(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=ULPS[found.dtype], atol=ULPS[found.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [24, 64, 4096])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_norm(dtype: torch.dtype, width: int, bias: bool) -> None:
    x = (torch.randn(3, 1, width, device=DEVICE) * 3 + 5).to(dtype)
    w, b = (torch.randn(width, device=DEVICE).to(dtype) for _ in range(2))
    near(norm_cuda(x, w, b if bias else None, 1e-5, centred=True), F.layer_norm(x, (width,), w, b if bias else None))
    near(norm_cuda(x, None, None, 1e-5, centred=True), F.layer_norm(x, (width,)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [24, 5120])
def test_a_root_mean_square_norm_rounds_before_its_weight(dtype: torch.dtype, width: int) -> None:
    x = (torch.randn(2, 1, width, device=DEVICE) * 3).to(dtype)
    w = torch.randn(width, device=DEVICE).to(dtype)
    near(norm_cuda(x, w, None, 1e-6, centred=False), F.rms_norm(x, (width,), eps=1e-6).mul_(w))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [1, 6])
@pytest.mark.parametrize("tokens", [1, 5])
def test_queries_turn_as_they_lie_in_a_projection(dtype: torch.dtype, heads: int, tokens: int) -> None:
    size, rows = 16, 3
    lying = torch.randn(rows, tokens, (heads + 4) * size, device=DEVICE).to(dtype)
    x = lying.view(rows, tokens, heads + 4, size)[:, :, 2 : 2 + heads]
    positions = torch.tensor([[1900], [-3], [7]], device=DEVICE) + torch.arange(tokens, device=DEVICE)  # padding is 0
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, size, 2, device=DEVICE) / size)
    angles = positions.clamp(min=0)[..., None, None].float() * frequencies
    angles = torch.cat((angles, angles), -1)
    near(turn_cuda(x, positions, frequencies), rotate(x, angles.cos().to(dtype), angles.sin().to(dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 4])
def test_queries_turn_each_by_its_own_frequencies_and_are_scaled(dtype: torch.dtype, tokens: int) -> None:
    size, rows = 16, 3
    x = torch.randn(rows, tokens, 4, size, device=DEVICE).to(dtype)
    positions = torch.tensor([[1900], [-3], [7]], device=DEVICE) + torch.arange(tokens, device=DEVICE)
    frequencies = torch.rand(rows, size // 2, device=DEVICE)
    angles = positions.clamp(min=0)[..., None, None].float() * frequencies[:, None, None]
    angles = torch.cat((angles, angles), -1)
    cos, sin = (turn.mul_(1.3).to(dtype) for turn in (angles.cos(), angles.sin()))
    near(turn_cuda(x, positions, frequencies, 1.3), rotate(x, cos, sin))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 24), (3, 1500)])
def test_a_gate_opens_over_itself_and_rounds_before_the_product(dtype: torch.dtype, rows: int, width: int) -> None:
    gate_up = (3 * torch.randn(rows, 1, 2 * width, device=DEVICE)).to(dtype)
    gate, up = gate_up.clone().chunk(2, dim=-1)
    found = gate_cuda(gate_up)
    near(found, F.silu(gate) * up)
    assert found.data_ptr() == gate_up.data_ptr()
    assert torch.equal(gate_up[..., width:], up)


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
@pytest.mark.parametrize("kind", ["dynamic", "longrope", "yarn"])
def test_a_captured_turn_follows_positions_past_the_original_context(kind: Any) -> None:
    factors = {"short_factors": (1.0,) * 8, "long_factors": (4.0,) * 8} if kind == "longrope" else {"factor": 4.0}
    scaling = RopeScaling(type=kind, original_max_positions=16, attention_factor=1.2, **factors)
    rotary = Rotary(
        ModelConstants(activation="silu", norm_eps=1e-6, attention_scale=1, rope_theta=1e4, rope_scaling=scaling), 16
    )
    positions, x = torch.tensor([[5], [-2], [14]], device=DEVICE), torch.randn(3, 1, 4, 16, device=DEVICE)
    rotary.turned(positions, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (found,) = rotary.turned(positions, x)
    for _ in range(24):
        positions.add_(1)
        graph.replay()
        torch.testing.assert_close(found.cpu(), rotary.turned(positions.cpu(), x.cpu())[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8])
@pytest.mark.parametrize(("first", "grains"), [(0, 6), (3, 3), (1, 4)])
def test_new_pairs_come_to_their_place_and_nowhere_else(dtype: torch.dtype, first: int, grains: int) -> None:
    rows, heads, size, capacity = 3, 2, 20, 9
    lying = torch.randint(1, 100, (rows, 1, 3 * heads * size), device=DEVICE).to(dtype)
    k, v = lying.view(rows, 1, 3 * heads, size)[:, :, heads:].chunk(2, dim=2)
    cache = torch.zeros(grains, 2, capacity, size, device=DEVICE, dtype=dtype)
    put_pairs_cuda(cache, k, v, first, torch.tensor([5], device=DEVICE))
    expected = torch.zeros_like(cache)
    expected[:, 0, 5] = k.flatten(0, 2)[first : first + grains]
    expected[:, 1, 5] = v.flatten(0, 2)[first : first + grains]
    assert torch.equal(cache, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "heads", "group"), [(1, 1, 1), (3, 2, 4), (35, 4, 1)])
@pytest.mark.parametrize("context", [1, 65, 300])
def test_attention_of_few_and_of_many_grains(
    dtype: torch.dtype, rows: int, heads: int, group: int, context: int
) -> None:
    size, grains = 32, rows * heads
    q = torch.randn(rows, (heads * group + 3) * size, device=DEVICE).to(dtype)
    q = q.view(rows, -1, size)[:, 1 : 1 + heads * group].unflatten(1, (heads, group))
    pairs = torch.randn(grains, 2, 320, size, device=DEVICE).to(dtype)
    pads = torch.arange(grains, device=DEVICE, dtype=torch.int32) % min(context, 130)
    place = torch.tensor([context - 1], device=DEVICE)
    k, v = pairs[:, 0], pairs[:, 1]
    lying, plain = (decode_attention_cuda(x, k, v, pads, place, 0.2) for x in (q, q.flatten(0, 1)))
    assert torch.equal(lying, plain)
    expected = grain_attention(q.flatten(0, 1).float(), k[:, :context].float(), v[:, :context].float(), pads, 0.2)
    near(plain, expected.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 40])
def test_sinks_take_weight_in_one_part_and_in_several(dtype: torch.dtype, rows: int) -> None:
    q = torch.randn(rows * 4, 5, 32, device=DEVICE).to(dtype)
    pairs, context = torch.randn(rows * 4, 2, 200, 32, device=DEVICE).to(dtype), 190
    pads = torch.arange(rows * 4, device=DEVICE, dtype=torch.int32) % 150
    rule = AttentionRule(0.2, sinks_KP=torch.linspace(-20, 20, 20, device=DEVICE).view(4, 5))
    place, sinks_GP = torch.tensor([context - 1], device=DEVICE), rule.sinks_GP(0, rows * 4)
    found = decode_attention_cuda(q, pairs[:, 0], pairs[:, 1], pads, place, 0.2, sinks_GP)
    near(found, scored_attention(q.float(), pairs.float(), pads, context, rule).to(dtype))


@pytest.mark.parametrize("newest", [9, 10, 75, 139])
def test_attention_goes_on_in_a_second_lap(newest: int) -> None:
    grains, room, size = 3, 70, 32
    q, pairs = torch.randn(grains, 2, size, device=DEVICE), torch.randn(grains, 2, room, size, device=DEVICE)
    pads = torch.tensor([max(0, newest + 1 - room), newest - 8, newest], device=DEVICE, dtype=torch.int32)
    found = decode_attention_cuda(q, pairs[:, 0], pairs[:, 1], pads, torch.tensor([newest], device=DEVICE), 0.2)
    in_order, first = unrolled(pairs, pads, newest + 1)
    near(found, grain_attention(q, in_order[:, 0], in_order[:, 1], first, 0.2))


USERS = (
    "attention.dense",
    "attention.cache_views",
    "kernels.norms",
    "attention.packed",
    "models.rope",
    "models.decoder",
)
POLICIES = {
    "resident": policy_with(2, 2, w=(50, 50), cache=(100, 0), act=(100, 0)),
    "mixed": policy_with(2, 2, w=(50, 50), cache=(30, 40), act=(100, 0)),
    "host": policy_with(2, 2, w=(50, 50), cache=(30, 70), act=(100, 0), cpu_cache_compute=True),
    "packed": policy_with(2, 2, w=(50, 50), cache=(30, 70), act=(100, 0), compress_weight=True, compress_cache=True),
}


@pytest.mark.skipif(CUDA, reason="there all tests of tokens run on these kernels")
@pytest.mark.parametrize(
    ("model", "name"),
    [*product(("opt", "llama", "stretched"), POLICIES), ("windowed", "mixed"), ("windowed", "packed")],
)
def test_tokens_are_those_of_the_framework(
    model: str, name: str, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, math = read_model("meta-llama/Llama-3.1-8B")
    size = {"hidden_size": 64, "embed_size": 64, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_size": 96}
    shape = shape.model_copy(update=size | {"num_layers": 2, "vocab_size": 200})
    if model == "stretched":  # past its original context from the first new token on
        scaling = RopeScaling(type="dynamic", factor=4.0, original_max_positions=5, attention_factor=1.1)
        math = math.model_copy(update={"rope_scaling": scaling})
    if model == "windowed":  # shorter than a prompt, and full from the first new token on
        shape = shape.model_copy(update={"windows": (3, 6)})
    config, weights = (str(tiny_opt), tiny_opt) if model == "opt" else ((shape, math), "_DUMMY_")
    budgets = {"gpu_mem": "1G", "cpu_mem": "1G", "disk_mem": "1G"}

    def tokens() -> list[list[int]]:
        with (
            ExecutionEnv.create(tmp_path, device="cpu", **budgets) as env,
            OffloadedLM(config, env, weights, POLICIES[name], dtype="float32") as lm,
        ):
            return lm.generate([[2, 10, 20, 30, 40], [2, 7], [2, 9, 9]], max_new_tokens=5).tolist()

    by_framework, compiled = tokens(), []
    for module in USERS:
        monkeypatch.setattr(
            import_module(f"flexplan_runtime.{module}"), "compiles_for", lambda x: compiled.append(x) or True
        )
    assert tokens() == by_framework
    assert compiled
