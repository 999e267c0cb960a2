"""A ``config.json`` is read as data, in both dialects, and nonsense is refused with its numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexplan.errors import ModelFilesError
from flexplan.model import read_config, read_model, weight_bytes
from flexplan.model.catalog import model_config, model_names
from flexplan.model.config import FAMILIES, shape_from_config

Config = dict[str, Any]

OPT_350M_AS_4 = {
    "_name_or_path": "facebook/opt-350m",
    "_remove_final_layer_norm": False,
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "architectures": ["OPTForCausalLM"],
    "bos_token_id": 2,
    "do_layer_norm_before": False,
    "dropout": 0.1,
    "eos_token_id": 2,
    "ffn_dim": 4096,
    "hidden_size": 1024,
    "max_position_embeddings": 2048,
    "model_type": "opt",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "pad_token_id": 1,
    "prefix": "</s>",
    "torch_dtype": "float16",
    "transformers_version": "4.20.0.dev0",
    "use_cache": True,
    "vocab_size": 50272,
    "word_embed_proj_dim": 512,
}
LLAMA_AS_4 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "vocab_size": 128256,
}
LLAMA_AS_5 = {k: v for k, v in LLAMA_AS_4.items() if k not in ("rope_scaling", "rope_theta", "torch_dtype")} | {
    "dtype": "bfloat16",
    "head_dim": 64,
    "pad_token_id": None,
    "rope_parameters": LLAMA_AS_4["rope_scaling"] | {"rope_theta": 500000.0},  # type: ignore[operator]
    "transformers_version": "5.17.0",
}
DEEPSEEK_V3_AS_4 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "aux_loss_alpha": 0.001,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "initializer_range": 0.02,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "pretraining_tp": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": 129280,
}
QWEN3_AS_4 = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "head_dim": 128,
    "intermediate_size": 3072,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
LLAMA3_ROPE = LLAMA_AS_4["rope_scaling"] | {"original_max_position_embeddings": 512}  # type: ignore[operator]
NO_HEAD_DIM = (
    "opt",
    "llama",
    "gpt_neox",
    "gpt2",
    "bloom",
    "falcon",
)  # it is what their sizes say, or nothing else is allowed
FULL = ["full_attention"] * 2
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}


def small(family: str, **changes: object) -> Config:
    """A config of a family with nothing but its required keys, and changes; ... removes one."""
    ffn = {"ffn_dim" if family == "opt" else "intermediate_size": 96}
    kv = {} if family in ("opt", "llama") else {"num_key_value_heads": 2}
    kv |= {"pad_token_id": 0} if family == "phi3" else {}
    if family.startswith("deepseek"):
        kv |= {"num_key_value_heads": 4, "num_experts_per_tok": 4, "moe_intermediate_size": 32}
    config = {"model_type": family, **SMALL, **ffn, **kv, "bos_token_id": 1, "eos_token_id": 2, **changes}
    return {k: v for k, v in config.items() if v is not ...}


def test_opt_350m_is_post_norm_and_projects_its_embeddings() -> None:
    shape, math = read_config(OPT_350M_AS_4)
    assert (shape.pre_norm, shape.final_norm, shape.embed_size, shape.position_offset) == (False, False, 512, 2)
    assert (math.activation, math.pad_token_id, math.rope_theta) == ("relu", 1, None)
    assert weight_bytes(shape) == 2 * 331_196_416  # the parameters of facebook/opt-350m


def test_both_dialects_of_a_llama_read_the_same() -> None:
    shape, math = read_config(LLAMA_AS_4)
    assert (shape, math) == read_config(LLAMA_AS_5)
    assert (shape.head_dim, shape.tied_embeddings, math.rope_theta) == (64, True, 500_000.0)
    assert math.rope_scaling is not None
    assert (math.rope_scaling.type, math.rope_scaling.factor) == ("llama3", 32.0)
    assert math.eos_token_ids == (128001, 128008, 128009)


def test_of_deepseek_v3_a_vector_a_token_is_kept_and_its_matrices_are_in_fp8() -> None:
    shape, math = read_config(DEEPSEEK_V3_AS_4, "deepseek-ai/DeepSeek-V3-FP8")
    assert (shape, math) == read_model("deepseek-ai/DeepSeek-V3-FP8")
    assert (shape.num_kv_heads, shape.head_dim, shape.kv_bytes_per_token) == (1, 576, 61 * 576 * 2)
    assert 0.99 < weight_bytes(shape) / 690e9 < 1.01  # 671 billion numbers, scales, tables in 16 bits
    assert math.attention_scale == pytest.approx(192**-0.5 * 1.3688879**2)
    assert math.rope_scaling is not None and math.rope_scaling.attention_factor == 1.0


def test_a_qwen3_head_is_as_wide_as_it_says() -> None:
    shape, math = read_config(QWEN3_AS_4)
    assert (shape.head_dim, shape.q_size, shape.kv_size, shape.qk_norm) == (128, 2048, 1024, True)
    assert math.attention_scale == 128**-0.5


@pytest.mark.parametrize("name", model_names())
def test_what_transformers_5_writes_reads_as_what_it_was_written_from(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.AutoConfig.for_model(**model_config(name)).save_pretrained(tmp_path)
    assert read_config(tmp_path, name) == read_model(name)


@pytest.mark.parametrize("family", FAMILIES)
def test_missing_keys_take_the_defaults_of_transformers(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    bare = small(
        family, num_key_value_heads=..., bos_token_id=..., eos_token_id=..., pad_token_id=..., vocab_size=50272
    )
    bare |= {"num_key_value_heads": 32} if family.startswith("deepseek") else {}
    bare |= {} if family in NO_HEAD_DIM else {"num_attention_heads": 32, "head_dim": 4}
    config = transformers.AutoConfig.for_model(**bare)
    assert read_config(bare) == read_config(config.to_dict())
    assert read_config(bare) == read_config(json.loads(config.to_json_string(use_diff=True)))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_of_a_forward_pass_is_as_many_bytes_as_the_shape_says(family: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = small(family, dtype="float32")
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    cache = model(torch.ones(3, 5, dtype=torch.long), use_cache=True).past_key_values
    nbytes = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    assert nbytes == 3 * 5 * shape_from_config(config).kv_bytes_per_token


@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"mlp_bias": True}, {"tie_word_embeddings": True}])
@pytest.mark.parametrize("family", FAMILIES)
def test_switches_change_the_weights_as_they_do_in_transformers(family: str, changes: Config) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = small(family, dtype="float32", **changes)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
    model.tie_weights()
    corrections = [b for path, b in model.named_buffers() if path.endswith("e_score_correction_bias")]
    assert weight_bytes(shape_from_config(config)) == sum(p.nbytes for p in (*model.parameters(), *corrections))


@pytest.mark.parametrize("changes", [{"enable_bias": False}, {"_remove_final_layer_norm": True}])
def test_switches_of_opt_change_the_weights_as_they_do_in_transformers(changes: Config) -> None:
    test_switches_change_the_weights_as_they_do_in_transformers("opt", changes)


def test_norms_without_weights_are_told_apart() -> None:
    shape = shape_from_config(small("opt", layer_norm_elementwise_affine=False))
    assert (shape.norm_affine, shape.norm_bias) == (False, False)


@pytest.mark.parametrize(
    ("dtype", "nbytes"), [("float32", 4), ("float16", 2), ("bfloat16", 2), ("torch.float16", 2), (None, 2)]
)
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_a_dtype_gives_the_bytes_of_an_element(key: str, dtype: str | None, nbytes: int) -> None:
    assert shape_from_config(small("llama", **{key: dtype})).bytes_per_element == nbytes


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (small("mistral", sliding_window=64), (64, 64)),
        (small("mistral", sliding_window=64, layer_types=["full_attention"] * 2), (64, 64)),
        (small("qwen2", sliding_window=64, use_sliding_window=True, max_window_layers=1), (0, 64)),
        (
            small("qwen3", sliding_window=9, use_sliding_window=True, layer_types=[*FULL[:1], "sliding_attention"]),
            (0, 9),
        ),
        (small("phi3", sliding_window=64), (64, 64)),
        (small("gemma2", sliding_window=64), (64, 0)),
        (small("gemma3_text", sliding_window=64, sliding_window_pattern=2), (64, 0)),
    ],
)
def test_layers_read_their_windows_and_sequences_may_be_longer(config: Config, windows: tuple[int, ...]) -> None:
    shape, _ = read_config(config)
    assert (shape.windows, shape.max_positions > 64) == (windows, True)


@pytest.mark.parametrize(
    "config",
    [
        small("mistral", sliding_window=None, max_position_embeddings=32768),
        small("mistral", sliding_window=40000, max_position_embeddings=32768),
        small("qwen2", sliding_window=4096, use_sliding_window=False, max_position_embeddings=32768),
        small("qwen2", sliding_window=64, use_sliding_window=True, max_position_embeddings=32768),
        small("qwen3", sliding_window=64, layer_types=["full_attention"] * 2, max_position_embeddings=32768),
        small("llama", sliding_window=64, layer_types=["attention"] * 2, max_position_embeddings=32768),
    ],
)
def test_a_window_that_is_not_used_or_cannot_be_reached_bounds_nothing(config: Config) -> None:
    shape, _ = read_config(config)
    assert (shape.max_positions, shape.windows) == (32768, ())


@pytest.mark.parametrize(
    "config",
    [
        small("llama", sliding_window=64),  # llama's own maths has none, but transformers' cache takes it from anyone
        small("llama", attention_chunk_size=64),
        small("mistral", sliding_window=64, is_causal=False),
    ],
)
def test_a_window_that_is_not_computed_bounds_the_length_that_is_exact(config: Config) -> None:
    shape, _ = read_config(config)
    assert (shape.max_positions, shape.windows) == (64, ())


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({"type": "linear", "factor": 4.0}, 8192),  # as documented: 2048 is the context before stretching
        ({"type": "linear", "factor": 4.0, "original_max_position_embeddings": 512}, 2048),  # it names another
        ({"type": "linear", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "dynamic", "factor": 4.0}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "yarn", "factor": 4.0}, 8192),
        (LLAMA3_ROPE, 2048),
    ],
)
def test_positions_stretched_from_a_shorter_context_reach_further(scaling: Config, longest: int) -> None:
    assert shape_from_config(small("llama", rope_scaling=scaling)).max_positions == longest


def test_keys_of_a_name_of_their_own_are_read_as_those_of_others() -> None:
    theirs = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 1024}
    config = small("gpt2", hidden_size=..., num_hidden_layers=..., num_attention_heads=...) | theirs
    assert read_config(config) == read_config(small("gpt2"))
    neox = small("gpt_neox", rotary_pct=0.5, rotary_emb_base=500)
    assert read_config(neox) == read_config(
        small("gpt_neox", rope_parameters={"rope_theta": 500.0, "partial_rotary_factor": 0.5, "rope_type": "default"})
    )


def test_kimi_k2_is_deepseek_v3_by_another_name() -> None:
    config = small("deepseek_v3", rope_scaling=YARN | {"mscale": 1.0, "mscale_all_dim": 1.0})
    assert read_config(config | {"model_type": "kimi_k2"}, "k2") == read_config(config, "k2")


def test_an_id_beyond_the_vocabulary_never_comes_up() -> None:
    math = read_config(small("llama", eos_token_id=[7, 100, -5], bos_token_id=50256, pad_token_id=-1))[1]
    assert (math.eos_token_ids, math.bos_token_id, math.pad_token_id) == ((7,), None, None)


def test_a_config_may_hold_what_python_and_windows_write(tmp_path: Path) -> None:
    text = json.dumps(small("llama", time_step_limit=[0.0, float("inf"), float("nan")]))
    (tmp_path / "config.json").write_text("\ufeff" + text, encoding="utf-8")
    assert read_config(tmp_path, "llama") == read_config(small("llama"))


def test_experts_have_two_names_as_in_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = small("mixtral", num_experts=3, num_local_experts=5)
    assert shape_from_config(config).num_experts == transformers.AutoConfig.for_model(**config).num_local_experts == 3


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines"])
def test_code_beside_a_model_type_that_is_known_is_not_asked_for(key: str) -> None:
    assert read_config(small("llama", **{key: {"AutoModelForCausalLM": "their.Model"}})) == read_config(small("llama"))


def test_weights_that_another_tool_packed_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small("llama")))
    (tmp_path / "hf_quant_config.json").write_text("{}")
    with pytest.raises(ModelFilesError, match="hf_quant_config"):
        read_config(tmp_path)


def test_end_and_pad_ids_of_the_generation_config_come_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small("llama")))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 8], "pad_token_id": 9, "temperature": 0.6}')
    math = read_config(tmp_path)[1]
    assert (math.eos_token_ids, math.pad_token_id, math.bos_token_id) == ((7, 8), 9, 1)


@pytest.mark.parametrize("written", [None, -1])
def test_an_id_of_null_or_minus_one_is_none(written: int | None) -> None:
    assert read_config(small("llama", pad_token_id=written))[1].pad_token_id is None


YARN = {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
NONSENSE: list[tuple[Config, str, list[str]]] = [
    (small("llama", model_type="mamba"), "FP504", ["mamba"]),
    (small("llama", model_type=None), "FP504", ["None"]),
    (small("llama", model_type=["llama"]), "FP504", ["llama"]),
    (small("llama", hidden_size=...), "FP502", ["hidden_size"]),
    (small("opt", ffn_dim=...), "FP502", ["ffn_dim"]),
    (small("llama", vocab_size=...), "FP502", ["vocab_size"]),
    (small("llama", num_hidden_layers=0), "FP503", ["num_hidden_layers", "0"]),
    (small("llama", num_hidden_layers=-1), "FP503", ["-1"]),
    (small("llama", num_hidden_layers=10**9), "FP503", ["1000000000", "1024"]),
    (small("llama", num_hidden_layers=True), "FP503", ["True"]),
    (small("llama", num_hidden_layers="2"), "FP503", ["'2'"]),
    (small("llama", num_hidden_layers=2.0), "FP503", ["2.0"]),
    (small("llama", hidden_size=None), "FP503", ["None"]),
    (small("llama", hidden_size=[64]), "FP503", ["[64]"]),
    (small("llama", vocab_size=10**400), "FP503", ["vocab_size"]),
    (small("llama", num_attention_heads=5), "FP506", ["64", "5"]),
    (small("opt", num_attention_heads=5), "FP506", ["64", "5"]),
    (small("llama", num_attention_heads=5, head_dim=16), "FP506", ["64", "5"]),
    (small("llama", num_key_value_heads=3), "FP506", ["4", "3"]),
    (small("llama", num_key_value_heads=8), "FP506", ["4", "8"]),
    (small("llama", num_key_value_heads=0), "FP503", ["num_key_value_heads", "0"]),
    (small("llama", head_dim=15), "FP506", ["15"]),
    (small("llama", head_dim="16"), "FP503", ["'16'"]),
    (small("llama", tie_word_embeddings="yes"), "FP503", ["'yes'"]),
    (small("llama", tie_word_embeddings=1), "FP503", ["tie_word_embeddings"]),
    (small("llama", hidden_act="tanh"), "FP503", ["tanh", "silu"]),
    (small("llama", hidden_act=["silu"]), "FP503", ["silu"]),
    (small("llama", rms_norm_eps=0), "FP503", ["rms_norm_eps"]),
    (small("llama", rms_norm_eps=-1e-5), "FP503", ["-1e-05"]),
    (small("llama", rms_norm_eps=float("nan")), "FP503", ["nan"]),
    (small("llama", rms_norm_eps=10**400), "FP503", ["rms_norm_eps"]),
    (small("llama", rope_theta=0), "FP503", ["rope_theta"]),
    (small("llama", rope_theta=True), "FP503", ["rope_theta"]),
    (small("llama", rope_parameters=[1]), "FP503", ["rope_parameters"]),
    (small("llama", rope_scaling=YARN | {"factor": "4"}), "FP503", ["factor", "'4'"]),
    (small("llama", rope_scaling={"rope_type": "yarn"}), "FP503", ["factor"]),
    (small("llama", rope_scaling=YARN | {"truncate": 1}), "FP503", ["truncate"]),
    (small("llama", rope_scaling=YARN | {"attention_factor": -1.0}), "FP503", ["attention_factor", "-1.0"]),
    (small("llama", rope_scaling=YARN, rope_theta=1), "FP503", ["rope_theta"]),
    (small("llama", rope_scaling=YARN, original_max_position_embeddings=None), "FP503", ["None"]),
    (small("llama", rope_scaling={"type": "dynamic"}), "FP503", ["factor"]),
    (small("llama", rope_scaling={"type": "dynamic", "factor": 2.0}, head_dim=2), "FP503", ["dynamic"]),
    (small("llama", rope_scaling={"type": "longrope", "short_factor": [1.0]}), "FP503", ["short_factor", "8"]),
    (small("llama", rope_scaling={"type": "longrope", "short_factor": [1.0] * 8}), "FP503", ["long_factor"]),
    (small("llama", rope_scaling={"type": "proportional"}), "FP504", ["proportional", "yarn"]),
    (small("llama", rope_scaling={"type": "mrope", "mrope_section": [1]}), "FP504", ["mrope"]),
    (small("llama", rope_scaling={"rope_type": None, "type": "linear", "factor": 2.0}), "FP504", ["None"]),
    (small("qwen2", rope_parameters={"full_attention": {"rope_type": "default"}}), "FP504", ["full_attention"]),
    (small("llama", rope_scaling={"type": "linear"}), "FP503", ["factor"]),
    (small("llama", rope_scaling=LLAMA3 | {"low_freq_factor": 4.0}), "FP506", ["4.0"]),
    (small("llama", rope_scaling=LLAMA3 | {"original_max_position_embeddings": "8k"}), "FP503", ["8k"]),
    (small("llama", rope_scaling=YARN, partial_rotary_factor=0.5), "FP504", ["0.5"]),
    (small("llama", rope_scaling={"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}), "FP504", ["0.5"]),
    (small("llama", eos_token_id=2.5), "FP503", ["2.5", "token id"]),
    (small("llama", eos_token_id=[2, True]), "FP503", ["eos_token_id"]),
    (small("llama", bos_token_id="1"), "FP503", ["'1'"]),
    (small("llama", dtype="int8"), "FP503", ["int8"]),
    (small("llama", torch_dtype=16), "FP503", ["16"]),
    (small("llama", dtype={"a": 1}), "FP503", ["dtype"]),
    (small("llama", dtype="float64"), "FP503", ["float64", "float32"]),
    (small("llama", model_type=..., auto_map={"AutoConfig": "evil.Config"}), "FP505", ["auto_map"]),
    (small("llama", model_type="kimi_linear", auto_map={"AutoConfig": "evil.Config"}), "FP504", ["kimi_linear"]),
    (small("llama", model_type="deepseek_v32", quantization_config={"bits": 4}), "FP504", ["deepseek_v32"]),
    (small("deepseek_v3", num_key_value_heads=2), "FP503", ["num_key_value_heads", "4"]),
    (small("deepseek_v3", num_attention_heads=3, num_key_value_heads=3), "FP506", ["64", "3"]),
    (small("deepseek_v3", topk_method="greedy"), "FP503", ["topk_method", "noaux_tc"]),
    (small("deepseek_v3", scoring_func="softmax"), "FP503", ["scoring_func", "sigmoid"]),
    (small("deepseek_v3", moe_layer_freq=2), "FP503", ["moe_layer_freq"]),
    (small("deepseek_v3", n_group=7), "FP503", ["n_group", "256"]),
    (small("deepseek_v3", n_group=256, topk_group=8), "FP503", ["n_group"]),
    (small("deepseek_v3", num_experts_per_tok=200), "FP503", ["num_experts_per_tok", "128"]),
    (small("deepseek_v3", qk_rope_head_dim=3), "FP506", ["3"]),
    (small("deepseek_v3", rope_scaling=YARN | {"mscale_all_dim": "x"}), "FP503", ["mscale_all_dim"]),
    (small("deepseek_v2", norm_topk_prob=True), "FP516", ["norm_topk_prob"]),
    (small("deepseek_v2", topk_method="noaux_tc"), "FP503", ["group_limited_greedy"]),
    (small("deepseek_v2", topk_method="group_limited_greedy"), "FP503", ["n_group"]),
    (small("deepseek_v2", num_experts_per_tok=...), "FP503", ["num_experts_per_tok"]),
    (small("bloom", apply_residual_connection_post_layernorm=True), "FP516", ["post_layernorm"]),
    (small("bloom", n_embed=32), "FP506", ["n_embed", "32"]),
    (small("falcon", new_decoder_architecture=True, num_kv_heads=3), "FP506", ["4", "3"]),
    (small("falcon", multi_query=False, num_kv_heads=2), "FP503", ["num_kv_heads", "4"]),
    (small("falcon", new_decoder_architecture=True, parallel_attn=False), "FP503", ["parallel_attn"]),
    (small("falcon", num_ln_in_parallel_attn=2), "FP503", ["num_ln_in_parallel_attn"]),
    (small("falcon", activation="silu-squared"), "FP503", ["silu-squared"]),
    (small("gpt2", n_embd=32), "FP506", ["n_embd", "32", "hidden_size", "64"]),
    (small("gpt2", n_layer=..., num_hidden_layers=...), "FP502", ["n_layer"]),
    (small("gpt2", quantization_config={"quant_method": "gptq", "bits": 4}), "FP504", ["gpt2", "by input"]),
    (small("gpt2", add_cross_attention=True), "FP516", ["add_cross_attention"]),
    (small("gpt2", scale_attn_by_inverse_layer_idx=True), "FP516", ["scale_attn_by_inverse_layer_idx"]),
    (small("gpt_neox", hidden_act="mish"), "FP503", ["mish"]),
    (small("gpt_neox", rope_scaling={"type": "proportional"}), "FP504", ["proportional"]),
    (small("gpt_neox", rotary_pct=0.01), "FP506", ["0.01"]),
    (small("llama", quantization={"bits": 4}), "FP504", ["quantization"]),
    (small("llama", is_causal="no"), "FP503", ["is_causal"]),
    (small("llama", per_layer_config={"0": {}}), "FP507", ["per_layer_config"]),
    (small("llama", is_encoder_decoder=True), "FP507", ["is_encoder_decoder"]),
    (small("llama", text_config={"dtype": "float16"}), "FP507", ["text_config"]),
    (small("opt", sliding_window=16), "FP504", ["16", "2048"]),
    (small("llama", layer_types=["sliding_attention"] * 2), "FP503", ["sliding_window"]),
    (small("llama", layer_types=["full_attention"]), "FP503", ["layer_types", "2"]),
    (small("qwen2", layer_types=["chunked_attention"] * 2), "FP503", ["layer_types"]),
    (small("qwen2", max_window_layers=-1, use_sliding_window=True), "FP503", ["max_window_layers"]),
    (small("llama", quantization_config={"bits": 4}), "FP504", ["quantization_config"]),
    (small("mixtral", num_local_experts=0), "FP503", ["num_local_experts"]),
    (small("mixtral", num_local_experts=4, num_experts_per_tok=5), "FP503", ["5", "4"]),
    (small("mistral", sliding_window=0), "FP503", ["sliding_window"]),
    (small("qwen2", use_sliding_window="no"), "FP503", ["use_sliding_window"]),
    (small("qwen2", layer_types=["linear_attention"]), "FP503", ["linear_attention"]),
    (small("qwen2", layer_types=["sliding_attention"] * 2), "FP503", ["use_sliding_window"]),
]


@pytest.mark.parametrize(("config", "code", "words"), NONSENSE)
def test_nonsense_is_refused_with_what_it_said(config: Config, code: str, words: list[str]) -> None:
    with pytest.raises(ModelFilesError) as refused:
        read_config(config)
    assert refused.value.code == code
    assert refused.value.fix
    assert all(word in refused.value.message + refused.value.fix for word in words)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"1", b"\xff\xfe", b'{"a": NaM}', b'{"a": 1, "a": 1}', b"[" * 200_000, b"9" * 9999]
)
def test_a_file_that_is_no_config_is_refused_with_its_path(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelFilesError) as refused:
        read_config(tmp_path)
    assert refused.value.code == "FP501"
    assert str(tmp_path) in refused.value.message


def test_a_missing_config_is_refused_with_its_path(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelFilesError, match=str(path)):
            read_config(path)


KEYS = sorted({"model_type", "dtype", "auto_map", *SMALL, *(k for family in FAMILIES.values() for k in family)})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**12) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["rope_type", "factor"]), inner),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.sampled_from(list(FAMILIES)), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_whatever_stands_in_a_config_it_is_read_or_refused(family: str, changes: Config) -> None:
    try:
        shape, _ = read_config(small(family) | changes)
    except ModelFilesError as refused:
        assert refused.code.startswith("FP50") or refused.code == "FP516"
    else:
        assert shape.num_heads % shape.num_kv_heads == 0


def test_planning_reads_models_without_a_tensor_library() -> None:
    script = (
        "import sys; from flexplan.model.catalog import model_shape;"
        "from flexplan.hardware.machine import hardware_from;"
        "model_shape('opt-30b'); hardware_from(); sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
