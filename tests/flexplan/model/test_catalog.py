"""Names of models, and that what the catalog says is what transformers allocates."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flexplan.errors import ModelFilesError, UsageError
from flexplan.model import ModelShape, model_shape, read_config, read_model, weight_bytes, weight_tensors
from flexplan.model.catalog import model_config, model_names
from flexplan.model.families import why_not

# models whose config.json is the same are the same to both
DISTINCT = tuple({json.dumps(model_config(n), sort_keys=True): n for n in reversed(model_names())}.values())


@cache
def on_meta(name: str) -> Any:
    """The model of transformers with weights of no bytes."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**model_config(name))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    return model


def unpacked(name: str) -> ModelShape:
    """Where its maker gives it in packed weights: as it is in plain ones."""
    return model_shape(name).model_copy(update={"stored": None})


@pytest.mark.parametrize("name", DISTINCT)
def test_weights_are_as_many_bytes_as_transformers_allocates(name: str) -> None:
    model = on_meta(name)
    corrections = [b for path, b in model.named_buffers() if path.endswith("e_score_correction_bias")]
    numbers = sum(p.numel() for p in (*model.parameters(), *corrections))  # transformers keeps some in float32
    assert weight_bytes(unpacked(name).with_dtype(2)) == 2 * numbers


@pytest.mark.parametrize(
    ("name", "gib"),
    [("openai/gpt-oss-20b", 12.8), ("openai/gpt-oss-120b", 60.8), ("gpt-oss-20b-bf16", 39.0), ("qwen3-32b-fp8", 32.9)],
)
def test_weights_are_as_many_bytes_as_their_makers_publish(name: str, gib: float) -> None:
    """Those of gpt-oss by its model card; in blocks of FP8 a byte a number, but for both token tables."""
    assert weight_bytes(model_shape(name)) / 2**30 == pytest.approx(gib, rel=5e-3)


FUSED = (".qkv_proj", ".query_key_value", ".c_attn")  # queries, keys and values in one


def _outputs(module: Any) -> int:
    """GPT-2's matrices lie by input."""
    return module.nf if hasattr(module, "nf") else len(module.weight)


@pytest.mark.parametrize("name", DISTINCT)
def test_keys_and_values_are_as_wide_as_the_projections_of_transformers(name: str) -> None:
    modules, shape = dict(on_meta(name).named_modules()), model_shape(name).with_dtype(2)
    keys_and_values = [m.weight for path, m in modules.items() if path.endswith((".k_proj", ".v_proj"))]
    rows = sum(len(w) for w in keys_and_values)
    rows += sum(_outputs(m) - shape.q_size for path, m in modules.items() if path.endswith(FUSED))
    rows += sum(_outputs(m) for path, m in modules.items() if path.endswith("kv_a_proj_with_mqa"))  # one is both
    assert shape.kv_bytes_per_token == rows * shape.bytes_per_element


@pytest.mark.parametrize("name", DISTINCT)
def test_queries_and_the_feed_forward_are_as_wide_as_those_of_transformers(name: str) -> None:
    shape = model_shape(name)
    rows = {t.name: t.rows for t in weight_tensors(shape) if t.layer == 0}
    layer = {path: m for path, m in on_meta(name).named_modules() if re.search(r"\.(layers|h)\.0\.", path)}
    qkv = [_outputs(m) for path, m in layer.items() if path.endswith((".q_proj", ".k_proj", ".v_proj", *FUSED))]
    made = [_outputs(m) for path, m in layer.items() if path.endswith(("_a_proj", "_b_proj", "_proj_with_mqa"))]
    if shape.latent:
        ours = [rows.get(f"{name}.weight", 0) for name in ("q", "q_down", "q_up", "kv_down", "kv_up")]
        assert sorted(n for n in ours if n) == sorted(qkv + made)
        return
    assert rows["qkv.weight"] == sum(qkv)
    out = next(m for path, m in layer.items() if path.endswith((".o_proj", "out_proj", "attn.c_proj", "ion.dense")))
    assert (_outputs(out), out.weight.numel()) == (shape.hidden_size, shape.hidden_size * shape.q_size)


@pytest.mark.parametrize("name", DISTINCT)
def test_constants_are_those_of_transformers(name: str) -> None:
    config, (shape, math) = on_meta(name).config, read_model(name)
    eos = config.eos_token_id
    assert math.eos_token_ids == (tuple(eos) if isinstance(eos, list) else (eos,))
    assert (math.bos_token_id, math.pad_token_id) == (config.bos_token_id, config.pad_token_id)
    window = getattr(config, "sliding_window", None) or 0
    assert set(shape.windows) <= {0, window}
    if shape.family != "opt":
        names = ("rms_norm_eps", "norm_epsilon", "layer_norm_eps", "layer_norm_epsilon")
        assert math.norm_eps == next(getattr(config, name) for name in names if hasattr(config, name))
    if shape.positions == "rotary":
        rope = config.rope_parameters.get("full_attention", config.rope_parameters)
        assert math.rope_theta == rope["rope_theta"]
        assert (math.rope_scaling.type if math.rope_scaling else "default") == rope["rope_type"]


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


# in millions of parameters, as their makers or the hub state them
STATED = {
    "meta-llama/Llama-3.3-70B-Instruct": 70_554,
    "meta-llama/Meta-Llama-3.1-8B-Instruct": 8_030,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": 70_554,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": 8_030,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": 7_616,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": 14_770,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": 32_764,
    "mistralai/Mistral-Nemo-Instruct-2407": 12_248,
    "mistralai/Mistral-Small-24B-Instruct-2501": 23_572,
    "mistralai/Mistral-Small-Instruct-2409": 22_247,
    "mistralai/Mistral-Large-Instruct-2407": 122_610,
    "mistralai/Codestral-22B-v0.1": 22_247,
    "Qwen/QwQ-32B": 32_764,
    "Qwen/Qwen2-0.5B": 494,
    "Qwen/Qwen2-72B-Instruct": 72_706,
    "Qwen/Qwen2.5-Coder-0.5B": 494,
    "Qwen/Qwen2.5-Coder-1.5B-Instruct": 1_544,
    "Qwen/Qwen2.5-Coder-3B": 3_086,
    "Qwen/Qwen2.5-Coder-7B": 7_616,
    "Qwen/Qwen2.5-Coder-14B-Instruct": 14_770,
    "Qwen/Qwen2.5-Coder-32B-Instruct": 32_764,
    "Qwen/Qwen3-4B-Instruct-2507": 4_022,
    "Qwen/Qwen3-8B-Base": 8_191,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100,
    "codellama/CodeLlama-7b-hf": 6_739,
    "codellama/CodeLlama-34b-hf": 33_744,
    "codellama/CodeLlama-70b-hf": 68_977,
    "huggyllama/llama-65b": 65_286,
    "lmsys/vicuna-13b-v1.5": 13_016,
    "01-ai/Yi-6B": 6_061,
    "01-ai/Yi-34B": 34_389,
    "01-ai/Yi-1.5-9B-Chat": 8_829,
    "deepseek-ai/deepseek-llm-7b-base": 6_910,
    "deepseek-ai/deepseek-llm-67b-base": 67_425,
    "deepseek-ai/deepseek-coder-6.7b-instruct": 6_740,
    "deepseek-ai/deepseek-coder-33b-base": 33_343,
    "NousResearch/Hermes-3-Llama-3.1-8B": 8_030,
    "google/gemma-7b": 8_538,
    "Qwen/Qwen3-30B-A3B": 30_532,
    "Qwen/Qwen3-235B-A22B-Instruct-2507": 235_094,
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": 480_155,
    "zai-org/GLM-4.5-Air": 106_852,
    "zai-org/GLM-4.5": 352_798,
    "openai/gpt-oss-20b": 20_915,
    "openai/gpt-oss-120b": 116_829,
    "google/gemma-2-2b-it": 2_614,
    "google/gemma-2-9b": 9_242,
    "google/gemma-2-27b-it": 27_227,
    "google/gemma-3-270m": 268,
    "google/gemma-3-1b-it": 1_000,
    "google/gemma-3-4b-it": 3_880,
    "google/gemma-3-27b-it": 27_009,
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": 23_572,
    "microsoft/Phi-3-mini-4k-instruct": 3_821,
    "microsoft/Phi-3-medium-4k-instruct": 13_960,
    "microsoft/phi-4": 14_660,
    "allenai/OLMo-2-1124-7B": 7_299,
    "allenai/OLMo-2-1124-13B-Instruct": 13_716,
    "allenai/OLMo-2-0325-32B": 32_234,
    "ibm-granite/granite-3.1-2b-instruct": 2_534,
    "ibm-granite/granite-3.1-8b-instruct": 8_171,
    "deepseek-ai/DeepSeek-V2-Lite": 15_706,
    "deepseek-ai/DeepSeek-V2": 235_741,
    "deepseek-ai/DeepSeek-V3": 671_026,
    "deepseek-ai/DeepSeek-R1": 671_026,
    "moonshotai/Kimi-K2-Instruct": 1_026_408,
    "moonshotai/Moonlight-16B-A3B": 15_960,
    "bigscience/bloom": 176_247,
    "bigscience/bloom-560m": 559.21,
    "bigscience/bloom-7b1": 7_069,
    "bigscience/bloomz-3b": 3_002.6,
    "tiiuae/falcon-7b": 6_921.7,
    "tiiuae/falcon-40b-instruct": 41_303,
    "tiiuae/falcon-180B": 178_555,
    "tiiuae/falcon-11B": 11_103,
    "tiiuae/falcon-rw-1b": 1_312,
    "openai-community/gpt2": 124.44,
    "openai-community/gpt2-medium": 354.82,
    "openai-community/gpt2-large": 774.03,
    "openai-community/gpt2-xl": 1_557.6,
    "EleutherAI/pythia-70m": 70.427,
    "EleutherAI/pythia-410m-deduped": 405.33,
    "EleutherAI/pythia-1b": 1_011.8,
    "EleutherAI/pythia-2.8b": 2_775.2,
    "EleutherAI/pythia-6.9b": 6_857.3,
    "EleutherAI/pythia-12b-deduped": 11_846,
    "EleutherAI/gpt-neox-20b": 20_555,
    "bigcode/starcoder2-3b": 3_030,
    "bigcode/starcoder2-7b": 7_174,
    "bigcode/starcoder2-15b": 15_958,
}


@pytest.mark.parametrize("name", STATED)
def test_models_have_as_many_parameters_as_their_makers_state(name: str) -> None:
    assert weight_bytes(unpacked(name).with_dtype(1)) / 1e6 == pytest.approx(STATED[name], rel=1e-3)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("Meta-Llama-3.1-405B", "meta-llama/Llama-3.1-405B"),
        ("meta-llama/Llama-3-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("unsloth/Meta-Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("unsloth/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("NousResearch/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("NousResearch/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
    ],
)
def test_a_mirror_or_an_older_name_is_the_same_model(other: str, name: str) -> None:
    assert model_shape(other) == model_shape(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deepseek-ai/DeepSeek-V3.2-Exp", "DeepSeek"),
        ("moonshotai/Kimi-Linear-48B-A3B-Base", "another family"),
        ("google/gemma-3n-E4B-it", "gemma"),
        ("microsoft/phi-2", "phi"),
        ("microsoft/Phi-3.5-MoE-instruct", "phi"),
        ("zai-org/GLM-4.5V", "glm"),
        ("THUDM/chatglm3-6b", "glm"),
        ("Qwen/Qwen2-57B-A14B", "Qwen"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "images"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", "Qwen"),
        ("meta-llama/Llama-4-Scout-17B-16E", "llama4"),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "images"),
        ("mistralai/Pixtral-12B-2409", "images"),
        ("tiiuae/Falcon-H1-7B-Base", "falcon of another kind"),
        ("EleutherAI/gpt-j-6b", "gpt-j"),
        ("mosaicml/mpt-7b", "mpt"),
        ("CohereForAI/c4ai-command-r-v01", "cohere"),
        ("ibm-granite/granite-3.1-3b-a800m-base", "granite"),
        ("allenai/OLMo-7B-hf", "olmo"),
        ("bigcode/starcoderbase", "code of an earlier kind"),
        ("google/flan-t5-xxl", "decoder"),
        ("TheBloke/Llama-2-7B-GPTQ", "packed weights (gptq)"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "packed weights (awq)"),
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "packed weights (bnb)"),
        ("mlx-community/Llama-3.2-1B-Instruct", "packed weights (MLX)"),
    ],
)
def test_a_model_that_cannot_run_is_called_so_by_name(name: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        model_shape(name)
    assert refused.value.code == "FP124"
    assert said in refused.value.message
    assert "llama" in refused.value.fix and "did you mean" not in refused.value.fix


def test_nothing_is_said_against_a_model_of_the_catalog() -> None:
    assert not [name for name in model_names() if why_not(name)]


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


def test_a_name_that_ends_in_fp8_is_the_model_in_blocks_of_fp8() -> None:
    shape, plain = model_shape("Qwen/Qwen3-8B-FP8"), model_shape("Qwen/Qwen3-8B")
    assert shape.name == "Qwen/Qwen3-8B-FP8" and shape.model_copy(update={"name": plain.name, "stored": None}) == plain
    packed = [t for t in weight_tensors(shape) if t.packing]
    assert sum(t.nbytes for t in packed) == sum(t.rows * (t.cols + t.cols // 128 * 4) for t in packed)
    assert weight_bytes(plain) - weight_bytes(shape) > 0.45 * sum(t.unpacked_bytes for t in packed)
