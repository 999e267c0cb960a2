"""Names of models, and that what the catalog says is what transformers allocates."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flexplan.errors import ModelFilesError, UsageError
from flexplan.model.catalog import model_config, model_names, model_shape, read_model
from flexplan.model.config import read_config
from flexplan.model.tensors import weight_bytes, weight_tensors


@cache
def on_meta(name: str) -> Any:
    """The model of transformers with weights of no bytes."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**model_config(name))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    return model


@pytest.mark.parametrize("name", model_names())
def test_weights_are_as_many_bytes_as_transformers_allocates(name: str) -> None:
    assert weight_bytes(model_shape(name)) == sum(p.numel() * p.element_size() for p in on_meta(name).parameters())


@pytest.mark.parametrize("name", model_names())
def test_keys_and_values_are_as_wide_as_the_projections_of_transformers(name: str) -> None:
    projections = [
        module.weight for path, module in on_meta(name).named_modules() if path.endswith((".k_proj", ".v_proj"))
    ]
    assert model_shape(name).kv_bytes_per_token == sum(w.shape[0] * w.element_size() for w in projections)


@pytest.mark.parametrize("name", model_names())
def test_queries_and_the_feed_forward_are_as_wide_as_those_of_transformers(name: str) -> None:
    shape = model_shape(name)
    rows = {t.name: t.rows for t in weight_tensors(shape) if t.layer == 0}
    layer = {path: p for path, p in on_meta(name).named_parameters() if ".layers.0." in path}
    qkv = [
        p.shape[0] for path, p in layer.items() if path.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
    ]
    assert rows["qkv.weight"] == sum(qkv)
    out = next(p for path, p in layer.items() if path.endswith(("o_proj.weight", "out_proj.weight")))
    assert out.shape == (shape.hidden_size, shape.q_size)


@pytest.mark.parametrize("name", model_names())
def test_constants_are_those_of_transformers(name: str) -> None:
    config, (shape, math) = on_meta(name).config, read_model(name)
    eos = config.eos_token_id
    assert math.eos_token_ids == (tuple(eos) if isinstance(eos, list) else (eos,))
    assert (math.bos_token_id, math.pad_token_id) == (config.bos_token_id, config.pad_token_id)
    assert math.sliding_window == getattr(config, "sliding_window", None)
    if shape.positions == "rotary":
        assert math.norm_eps == config.rms_norm_eps
        assert math.rope_theta == config.rope_parameters["rope_theta"]
        assert (math.rope_scaling.type if math.rope_scaling else "default") == config.rope_parameters["rope_type"]


@pytest.mark.parametrize("name", ["opt-30b", "OPT-30B", "facebook/opt-30b", "Facebook/OPT-30b"])
def test_a_model_is_known_by_its_short_name_in_any_case(name: str) -> None:
    assert model_shape(name).name == "facebook/opt-30b"


def test_a_short_name_needs_no_hf_ending() -> None:
    assert model_shape("llama-2-7b").name == "meta-llama/Llama-2-7b-hf"


@pytest.mark.parametrize(
    ("name", "dtype"), [("opt-30b", "float16"), ("Qwen3-8B", "bfloat16"), ("Llama-2-7b", "float16")]
)
def test_dtype_is_the_checkpoints(name: str, dtype: str) -> None:
    assert read_model(name)[1].dtype == dtype


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_of_a_config_in_either_dialect(key: str, dtype: str) -> None:
    config = {k: v for k, v in model_config("opt-125m").items() if k != "torch_dtype"}
    shape, math = read_config(config | {key: dtype})
    assert (math.dtype, shape.bytes_per_element) == (dtype, 4 if dtype == "float32" else 2)


def test_short_names_are_unique() -> None:
    tails = [name.lower().split("/")[1] for name in model_names()]
    assert len(set(tails)) == len(tails)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("opt-31b", "facebook/opt-30b"),
        ("facebook/opt30b", "facebook/opt-30b"),
        ("llama-3.1-8", "meta-llama/Llama-3.1-8B"),
        ("qwen2.5-32", "Qwen/Qwen2.5-32B"),
        ("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_one_meant(typed: str, meant: str) -> None:
    with pytest.raises(UsageError) as refused:
        model_shape(typed)
    assert refused.value.code == "FP120"
    assert repr(typed) in refused.value.message
    assert meant in refused.value.fix


@pytest.mark.parametrize("name", ["", "zzzzzz", "/no/such/place", "a" * 1000, "\x00"])
def test_a_name_like_no_other_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="FP120"):
        model_shape(name)


def test_a_directory_comes_before_the_name_it_bears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("opt-30b").mkdir()
    assert model_shape("opt-30b").num_layers == 48  # an empty directory is not a model
    Path("opt-30b/config.json").write_text(
        '{"model_type": "opt", "vocab_size": 100, "hidden_size": 8, "ffn_dim": 32,'
        ' "num_hidden_layers": 3, "num_attention_heads": 2}'
    )
    for path in ("opt-30b", "opt-30b/config.json", Path("opt-30b")):
        assert (model_shape(path).name, model_shape(path).num_layers) == ("opt-30b", 3)


def test_a_directory_without_a_config_is_a_bad_model_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="FP501"):
        model_shape(tmp_path)


def test_changing_a_config_does_not_change_the_catalog() -> None:
    model_config("opt-30b")["num_hidden_layers"] = 1
    assert model_shape("opt-30b").num_layers == 48
