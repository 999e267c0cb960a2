"""GGUF files: converted once into the directory of the model that they hold, codes kept where they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policies import Case, generated, random_prompts, reference
from tiny_models import ROTARY, reference_model
from transformers import AutoTokenizer, LlamaConfig, PreTrainedModel, Qwen3Config
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.errors import ModelFilesError
from flexplan.model import read_model, weight_tensors
from flexplan.testing import policy_with

gguf = pytest.importorskip("gguf", reason="no gguf")

SIZES = ROTARY | {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 300, "head_dim": 16}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**SIZES, tie_word_embeddings=True),
}


def pairs_together(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """GGUF's order of Llama's rotary rows."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def written(model: PreTrainedModel, file: Path, kind: str, **more: Any) -> dict[str, np.ndarray[Any, Any]]:
    """A model as a GGUF file of this type; what its matrices stand for, by their names in Hugging Face's models."""
    config, family = model.config, model.config.model_type
    writer = gguf.GGUFWriter(file, family)
    writer.add_embedding_length(64), writer.add_block_count(2), writer.add_feed_forward_length(96)
    writer.add_head_count(4), writer.add_head_count_kv(2), writer.add_context_length(40)
    writer.add_key_length(16), writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    letters = [*map(chr, range(256, 511)), chr(256) + chr(257)]
    writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*letters, *(f"<{n}>" for n in range(44))])
    writer.add_token_types([1] * 256 + [3] * 44)
    writer.add_token_merges([f"{chr(256)} {chr(257)}"]), writer.add_eos_token_id(257), writer.add_bos_token_id(256)
    for key, value in more.items():
        writer.add_key_value(key.replace("__", "."), value, gguf.GGUFValueType.STRING)
    known = gguf.get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == family), 2)
    meant = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        rows, stored = tensor.float().numpy(), known.get_name(name, try_suffixes=(".weight",))
        heads = {"q": 4, "k": 2}.get(name.split("_proj")[0][-1]) if family == "llama" and "_proj" in name else None
        packed = gguf.GGMLQuantizationType[kind if rows.ndim == 2 and "layers" in name else "F32"]
        arranged = pairs_together(rows, heads) if heads and "self_attn" in name else rows
        data = gguf.quants.quantize(np.ascontiguousarray(arranged), packed)
        writer.add_tensor(stored, data, raw_dtype=packed)
        meant[name] = gguf.quants.dequantize(gguf.quants.quantize(np.ascontiguousarray(rows), packed), packed)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return meant


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("family", "kind", "num_bytes"),
    [("llama", "F16", 2.0), ("llama", "Q8_0", 1.25), ("qwen3", "Q4_0", 0.75), ("qwen3", "Q5_1", 2.0)],
)
def test_a_file_is_the_model_that_its_numbers_stand_for(
    family: str, kind: str, num_bytes: float, tmp_path: Path
) -> None:
    """Tokens are those of transformers; Q8_0 and Q4_0 stay in their codes, with a scale for 32 and rows of 16 bytes."""
    from flexplan_runtime.weights import resolve_model

    model = reference_model(CONFIGS[family])
    meant = written(model, tmp_path / "tiny.gguf", kind)
    place = resolve_model(tmp_path / "tiny.gguf")
    assert resolve_model(str(tmp_path / "tiny.gguf")) == place  # once
    shape, _ = read_model(tmp_path / "tiny.gguf")
    up = next(t for t in weight_tensors(shape) if t.name == "gate_up.weight")
    assert up.nbytes <= num_bytes * up.rows * up.cols and bool(up.packing) == (num_bytes < 2)
    rounded = {name: torch.from_numpy(rows).half().float() for name, rows in meant.items()}
    head = "lm_head.weight" if family == "llama" else "model.embed_tokens.weight"
    model.load_state_dict(rounded | {"lm_head.weight": rounded[head]})
    expected = reference(model, random_prompts(300))
    case = Case(policy_with(2, 2, w=(40, 30)), num_prompts=4)
    differing = expected.rows_that_differ(case, generated(tmp_path / "tiny.gguf", case, expected.prompts, tmp_path))
    assert all(gap < 0.02 for _, gap in differing), differing  # of kept codes, numbers are not rounded to 16 bits
    assert len(differing) <= 1


def test_digits_are_split_as_the_file_says(tmp_path: Path) -> None:
    from flexplan_runtime.weights import resolve_model

    written(reference_model(CONFIGS["llama"]), tmp_path / "tiny.gguf", "F16")
    done = CliRunner().invoke(app, ["convert", str(tmp_path / "tiny.gguf")])
    place = resolve_model(tmp_path / "tiny.gguf")
    assert done.exit_code == 0 and str(place) in done.output.replace("\n", "")
    tokenizer = AutoTokenizer.from_pretrained(place)
    assert tokenizer.eos_token == "<1>" and tokenizer.convert_tokens_to_ids("<3>") == 259


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tokenizer__ggml__pre": "another"}, "tokenizer.ggml.pre 'another'"),
        ({"llama__rope__scaling__type": "yarn"}, "rope.scaling.type 'yarn'"),
    ],
)
def test_what_is_not_converted_is_refused_by_its_key(more: dict[str, str], said: str, tmp_path: Path) -> None:
    from flexplan_runtime.weights import resolve_model

    written(reference_model(CONFIGS["llama"]), tmp_path / "tiny.gguf", "F16", **more)
    with pytest.raises(ModelFilesError, match=said) as refused:
        resolve_model(tmp_path / "tiny.gguf")
    assert refused.value.code == "FP543"
    assert not list((tmp_path / "cache").rglob("config.json"))  # whole, or not at all


def test_a_plan_says_how_a_file_becomes_a_model(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ModelFilesError, match="flexplan convert") as refused:
        read_model(file)
    assert refused.value.code == "FP529"
    from flexplan_runtime.weights import resolve_model

    with pytest.raises(ModelFilesError) as broken:
        resolve_model(file)
    assert broken.value.code == "FP542"
    assert CliRunner().invoke(app, ["convert", str(tmp_path)]).exit_code == 4
