"""The layer maths, composed to a whole forward pass, is transformers'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flexplan_runtime.models import family
from flexplan_runtime.models.base import linear, whole
from tiny_models import CONFIGS, our_logits, reference_logits, saved

from flexplan.errors import ModelFilesError
from flexplan.model import read_config, weight_tensors
from flexplan.model.checkpoint import parameter_sources

IDS_BS = torch.arange(2 * 17).reshape(2, 17) * 7 % 95 + 3


def uneven(rows: int) -> list[int]:
    return [rows // 3, rows - rows // 3] if rows > 2 else [rows]


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = saved(CONFIGS[name], tmp_path)
    expected = reference_logits(model, IDS_BS)
    assert expected.std() > 0.1
    torch.testing.assert_close(our_logits(tmp_path, IDS_BS), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["opt", "opt post-norm, projected", "qwen2", "qwen3", "mixtral", "gemma2", "olmo2", "gpt-oss"]
)
def test_weights_cut_by_rows_give_the_same_logits(name: str, tmp_path: Path) -> None:
    saved(CONFIGS[name], tmp_path)
    torch.testing.assert_close(our_logits(tmp_path, IDS_BS, uneven), our_logits(tmp_path, IDS_BS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_sources_fill_every_row_of_every_tensor_once(name: str) -> None:
    shape, _ = read_config(CONFIGS[name].to_dict())
    sources = parameter_sources(shape, frozenset())
    for tensor in weight_tensors(shape):
        rows = [
            r for s in sources if (s.layer, s.name) == (tensor.layer, tensor.name) for r in range(s.row, s.row + s.rows)
        ]
        assert sorted(rows) == list(range(tensor.rows))
    known = {(t.layer, t.name, t.cols) for t in weight_tensors(shape)}
    assert {(s.layer, s.name, s.cols) for s in sources} == known


def test_a_longer_context_turns_by_its_own_position(tmp_path: Path) -> None:
    """Decoding passes one position at a time: row b of a batch may be at another place than row a."""
    saved(CONFIGS["llama3 rope"], tmp_path)
    maths = family(*read_config(tmp_path))
    hidden_BSD = torch.randn(2, 3, 32)
    w = {
        "attention_norm.weight": (torch.ones(32),),
        "qkv.weight": (torch.randn(64, 32),),
    }
    positions_BS = torch.tensor([[0, 1, 2], [7, 8, 9]])
    together = maths.project(w, hidden_BSD, positions_BS)
    alone = maths.project(w, hidden_BSD[1:, 2:], positions_BS[1:, 2:])
    for all_rows, one in zip(together, alone, strict=True):
        torch.testing.assert_close(all_rows[1:, 2:], one)


@pytest.mark.parametrize("name", ["opt", "llama"])
def test_padding_positions_are_harmless(name: str, tmp_path: Path) -> None:
    saved(CONFIGS[name], tmp_path)
    maths = family(*read_config(tmp_path))
    w = {
        "attention_norm.weight": (torch.ones(32),),
        "attention_norm.bias": (torch.zeros(32),),
        "qkv.weight": (torch.randn(96 if name == "opt" else 64, 32),),
        "positions.weight": (torch.randn(42, 32),),
    }
    positions_BS = torch.tensor([[-2, -1, 0]])
    hidden_BSD = maths.embed(w, torch.randn(1, 3, 32), positions_BS)
    assert all(x.isfinite().all() for x in maths.project(w, hidden_BSD, positions_BS))


def test_maths_leaves_its_arguments_alone(tmp_path: Path) -> None:
    saved(CONFIGS["opt"], tmp_path)
    maths = family(*read_config(tmp_path))
    hidden_BSD, out = torch.randn(1, 3, 32), (torch.randn(32, 32),)
    before = hidden_BSD.clone()
    maths.merge({"out.weight": out}, hidden_BSD, torch.randn(1, 3, 32))
    assert torch.equal(hidden_BSD, before)


def test_a_bias_may_be_cut_elsewhere_than_its_weight() -> None:
    x, weight, bias = torch.randn(2, 5), torch.randn(7, 5), torch.randn(7)
    cut = linear(x, (weight[:3], weight[3:]), (bias[:5], bias[5:]))
    torch.testing.assert_close(cut, torch.nn.functional.linear(x, weight, bias))
    assert whole((weight,)) is weight


def test_an_unknown_family_names_the_known_ones() -> None:
    shape, math = read_config(CONFIGS["llama"].to_dict())
    with pytest.raises(ModelFilesError, match=r"mamba.*opt, llama"):
        family(shape.model_copy(update={"family": "mamba"}), math)
