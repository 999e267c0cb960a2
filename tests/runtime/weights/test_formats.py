"""Quantised checkpoints: their own codes on the tiers, and the tokens of the model that they stand for."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.kernels.codes import decode_rows
from flexplan_runtime.weights.checkpoint import open_checkpoint
from policies import NEAR_TIE, Case, covering, generated, random_prompts, reference, transformers_model
from quantised import EXPERTS, FORMATS, GROUP, mxfp4, quantise
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, ROTARY, saved
from torch import Tensor
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, GptOssConfig, LlamaConfig, MixtralConfig
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from flexplan.errors import ModelFilesError
from flexplan.model import Coding, read_config, weight_tensors
from flexplan.placement.weights import place_weights
from flexplan.policy import Policy
from flexplan.testing import policy_with

# blocks that end within a matrix, and within the rows of one that is stored with others
ODD = ROTARY | {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "num_key_value_heads": 3}
POLICIES = 20


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model in every format, by its name."""
    place = tmp_path_factory.mktemp("models")
    saved(LlamaConfig(**ODD, tie_word_embeddings=False), place / "llama")
    return {name: quantise(place / "llama", place / name, form) for name, form in FORMATS.items()} | {
        "mxfp4": fused_experts(place)
    }


def fused_experts(place: Path) -> Path:
    """A Mixtral whose experts are stored as gpt-oss stores them: together, in MXFP4."""
    sizes = ROTARY | {"hidden_size": 64, "intermediate_size": 96}
    saved(MixtralConfig(**sizes, num_local_experts=4, num_experts_per_tok=2), place / "mixtral")
    stored, plain = {}, load_file(place / "mixtral" / "model.safetensors")
    for layer in range(2):
        at = f"model.layers.{layer}.block_sparse_moe."
        w1, w2, w3 = (torch.stack([plain.pop(f"{at}experts.{e}.w{n}.weight") for e in range(4)]) for n in (1, 2, 3))
        for name, fused in (("gate_up_proj", torch.cat((w1, w3), 1)), ("down_proj", w2)):
            codes, meant = mxfp4(f"{at}experts.{name}", fused)
            stored |= codes
            apart = {"w2": meant} if name == "down_proj" else {"w1": meant[:, :96], "w3": meant[:, 96:]}
            plain |= {f"{at}experts.{e}.{w}.weight": m[e].contiguous() for w, m in apart.items() for e in range(4)}
    shutil.copytree(place / "mixtral", place / "mxfp4" / "plain")
    save_file(plain, place / "mxfp4" / "plain" / "model.safetensors", metadata={"format": "pt"})
    others = {name: tensor for name, tensor in plain.items() if ".experts." not in name}
    save_file(others | stored, place / "mxfp4" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((place / "mixtral" / "config.json").read_text())
    (place / "mxfp4" / "config.json").write_text(json.dumps(config | {"quantization_config": EXPERTS.config}))
    return place / "mxfp4"


def rows_of(directory: Path, name: str, layer: int, lo: int, hi: int) -> Tensor:
    """Rows of a matrix in float32."""
    shape, _ = read_config(directory)
    tensor = next(t for t in weight_tensors(shape) if (t.layer, t.name) == (layer, name))
    out, reader = torch.empty(hi - lo, tensor.cols), open_checkpoint(directory, shape)
    if isinstance(tensor.packing, Coding):
        stored = torch.full((tensor.rows_bytes(hi - lo),), 255, dtype=torch.uint8)
        reader.read_codes(tensor, lo, hi - lo, stored)
        decode_rows(stored.view(hi - lo, -1), tensor.packing, out)
    else:
        reader.read_rows(name, layer, lo, hi - lo, out)
    return out


@pytest.mark.parametrize("name", [*FORMATS, "mxfp4"])
def test_codes_stand_for_what_their_layout_says(name: str, coded: dict[str, Path]) -> None:
    """Of any rows, across the matrices that are one here, as codes and as plain numbers."""
    directory = coded[name]
    matrices = {"mxfp4": [("experts.3.gate_up.weight", 192), ("experts.1.down.weight", 64)]}
    for matrix, rows in matrices.get(name, [("qkv.weight", 96), ("down.weight", 48)]):
        for lo, hi in ((0, rows), (5, rows - 3), (rows // 2 + 1, rows // 2 + 2)):
            expected = rows_of(directory / "plain", matrix, 1, lo, hi)
            assert torch.equal(rows_of(directory, matrix, 1, lo, hi), expected)
            plain, (shape, _) = torch.empty(hi - lo, expected.shape[1]), read_config(directory)
            open_checkpoint(directory, shape).read_rows(matrix, 1, lo, hi - lo, plain)
            assert torch.equal(plain, expected)


@pytest.mark.parametrize("name", [*FORMATS, "mxfp4"])
def test_greedy_tokens_are_those_of_the_model_that_the_codes_stand_for(
    name: str, coded: dict[str, Path], tmp_path: Path
) -> None:
    directory, cases = coded[name], POLICIES if name in ("fp8 blocks", "mxfp4") else 3
    expected = reference(transformers_model(directory / "plain"), random_prompts(99))
    few = [Case(Policy(2, 1, 10, 90, experts_on_demand=True), num_prompts=5)] if name == "mxfp4" else []
    for case in [*few, *covering(cases, seed=[*FORMATS, "mxfp4"].index(name))]:
        output = generated(directory, case, expected.prompts, tmp_path)
        differing = expected.rows_that_differ(case, output)
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"


def test_gpt_oss_is_read_in_its_own_format(tmp_path: Path) -> None:
    """Experts lie by input in 16 bits, by output in MXFP4; their biases, the router and all else stay plain."""
    sizes = ROTARY | {"intermediate_size": 64, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}
    saved(GptOssConfig(**sizes, sliding_window=5, swiglu_limit=1.5), tmp_path / "plain")
    plain, stored = load_file(tmp_path / "plain" / "model.safetensors"), {}
    for name in [name for name in plain if name.endswith(("gate_up_proj", "down_proj"))]:
        codes, meant = mxfp4(name, plain[name].transpose(1, 2).contiguous())
        stored |= codes
        plain[name] = meant.transpose(1, 2).contiguous()
    save_file(plain, tmp_path / "plain" / "model.safetensors", metadata={"format": "pt"})
    others = {name: tensor for name, tensor in plain.items() if f"{name}_blocks" not in stored}
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    (tmp_path / "coded").mkdir()
    save_file(others | stored, tmp_path / "coded" / "model.safetensors")
    (tmp_path / "coded" / "config.json").write_text(json.dumps(config | {"quantization_config": EXPERTS.config}))
    expected = reference(transformers_model(tmp_path / "plain"), random_prompts(99))
    for case in covering(4, seed=3):
        differing = expected.rows_that_differ(case, generated(tmp_path / "coded", case, expected.prompts, tmp_path))
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"


def test_deepseek_is_read_in_its_own_format(tmp_path: Path) -> None:
    """FP8 in blocks: what queries and keys are made of and into, and experts one by one; the router stays plain."""
    saved(CONFIGS["deepseek v3"], tmp_path / "model")
    blocks = FORMATS["fp8 blocks"]
    form = blocks._replace(wanted=lambda name: name.endswith(("_proj.weight", "_with_mqa.weight")))
    directory = quantise(tmp_path / "model", tmp_path / "coded", form)
    expected = reference(transformers_model(directory / "plain"), random_prompts(99))
    for case in covering(3, seed=5):
        differing = expected.rows_that_differ(case, generated(directory, case, expected.prompts, tmp_path))
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*FORMATS, "mxfp4"])
def test_tokens_on_a_gpu_are_the_same(name: str, coded: dict[str, Path], tmp_path: Path) -> None:
    """Codes are streamed and decoded there, some in captured steps."""
    directory = coded[name]
    expected = reference(transformers_model(directory / "plain"), random_prompts(99))
    for case in covering(6, seed=len(name)):
        with (
            ExecutionEnv.create(tmp_path, device="cuda:0", deadline_s=60) as env,
            OffloadedLM(str(directory), env, directory, case.policy, schedule=case.schedule, dtype="float32") as lm,
        ):
            prompts = expected.prompts[: case.num_prompts]
            output = lm.generate(prompts, max_new_tokens=case.gen_len, pad_token_id=0)
        differing = expected.rows_that_differ(case, output)
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"


def test_transformers_reads_the_same_numbers(coded: dict[str, Path]) -> None:
    """Where it can without a GPU: FP8 in blocks, and the blocks of gpt-oss."""
    square = coded["fp8 blocks, scales in bfloat16"]
    dequantised = FineGrainedFP8Config(dequantize=True)
    theirs = AutoModelForCausalLM.from_pretrained(square, quantization_config=dequantised, dtype=torch.float32)
    for layer in range(2):
        expected = theirs.state_dict()[f"model.layers.{layer}.mlp.down_proj.weight"].float()
        assert torch.equal(rows_of(square, "down.weight", layer, 0, 48), expected)
    stored = load_file(coded["mxfp4"] / "model.safetensors")
    blocks, scales = (
        stored[f"model.layers.0.block_sparse_moe.experts.down_proj_{end}"] for end in ("blocks", "scales")
    )
    expected = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32).transpose(1, 2)
    assert torch.equal(rows_of(coded["mxfp4"], "experts.2.down.weight", 0, 0, 64), expected[2])


def test_a_plan_counts_codes_and_scales_wherever_they_lie(coded: dict[str, Path]) -> None:
    shape, _ = read_config(coded["awq"])
    layers = place_weights(shape, policy_with(1, 1, w=(50, 25), sep_layer=False))
    # codes, scales and zeros of a row of 48 and of 80, to multiples of 16
    row_48, row_80 = 48, 64
    assert row_48 >= 24 + 3 * (2 + 1) and row_80 >= 40 + 5 * (2 + 1)
    norms = 2 * 48 * shape.bytes_per_element
    assert sum(p.nbytes for p in layers[1].pieces) == (96 + 48 + 160) * row_48 + 48 * row_80 + norms
    assert layers[1].unpacked_bytes >= 4 * (3 * 80 * 48 + (96 + 48) * 48)


def test_a_policy_may_pack_codes_anew(coded: dict[str, Path], tmp_path: Path) -> None:
    """Into its own 4 bits, which are those of the plain model."""
    case = covering(1)[0]
    four = case.__class__(policy_with(2, 2, w=(50, 50), compress_weight=True), num_prompts=4)
    prompts, directory = random_prompts(99), coded["fp8 blocks"]
    tokens = [generated(place, four, prompts, tmp_path) for place in (directory, directory / "plain")]
    assert torch.equal(*tokens)


# -- what is refused ---------------------------------------------------------------------------------------------------
def changed(directory: Path, place: Path, quantization: dict[str, Any]) -> Path:
    """The model, its `quantization_config` changed."""
    shutil.copytree(directory, place)
    config = json.loads((place / "config.json").read_text())
    config["quantization_config"] |= quantization
    (place / "config.json").write_text(json.dumps(config))
    return place


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gptq", "desc_act", True),
        ("gptq", "bits", 3),
        ("gptq", "bits", True),
        ("gptq", "group_size", 0),
        ("gptq", "lm_head", True),
        ("gptq", "dynamic", {"-:.*down.*": {}}),
        ("gptq", "modules_in_block_to_quantize", [["self_attn.k_proj"]]),
        ("awq", "version", "gemv"),
        ("awq", "zero_point", False),
        ("fp8 blocks", "fmt", "e5m2"),
        ("fp8 blocks", "weight_block_size", [128]),
        ("fp8 blocks", "dequantize", True),
        ("fp8 blocks", "modules_to_convert", ["embed_tokens"]),
        ("fp8 blocks", "modules_to_not_convert", "lm_head"),
        ("w4a16", "kv_cache_scheme", {"num_bits": 8}),
        ("w4a16", "format", "marlin-24"),
        ("w4a16", "config_groups", {}),
        ("w4a16", "sparsity_config", {"format": "dense"}),
    ],
)
def test_what_is_not_honoured_is_refused_by_its_name(
    name: str, key: str, value: object, coded: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelFilesError, match=key) as refused:
        read_config(changed(coded[name], tmp_path / "model", {key: value}))
    assert refused.value.code == "FP510"


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (["lm_head"], ()),
        (["model.layers.0.mlp"], ("0.gate_up.weight", "0.down.weight")),
        (["mlp.down_proj", "re:.*self_attn.o_proj$"], ("out.weight", "down.weight")),
        (["model.layers.*.self_attn"], ("qkv.weight", "out.weight")),
        (["model.layers.1.mlp.gate"], ()),  # of gate_proj it says nothing
    ],
)
def test_named_modules_stay_plain(patterns: list[str], kept: tuple[str, ...], coded: dict[str, Path]) -> None:
    config = json.loads((coded["fp8 blocks"] / "config.json").read_text())
    config["quantization_config"]["modules_to_not_convert"] = patterns
    shape, _ = read_config(config)
    assert shape.stored is not None and shape.stored.kept == kept
    packed = {(t.layer, t.name) for t in weight_tensors(shape) if t.packing}
    assert len(packed) == 8 - sum(1 if name[0].isdigit() else 2 for name in kept)


@pytest.mark.parametrize(
    ("patterns", "code"),
    [(["q_proj"], "FP511"), (["re:(a+)+b"], "FP514"), ([f"re:{n}" for n in range(65)], "FP515")],
)
def test_modules_that_cannot_be_kept_are_refused(
    patterns: list[str], code: str, coded: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelFilesError, match=r"part of qkv|is not read|65 patterns") as refused:
        read_config(changed(coded["w4a16"], tmp_path / "model", {"ignore": patterns}))
    assert refused.value.code == code


ODD_VALUES = (
    None,
    True,
    0,
    -1,
    1 << 70,
    1.5,
    "x",
    "",
    "re:",
    [],
    [[]],
    {},
    ["re:.*"],
    ["\ud800"],
    [1 << 21, 1],
    {"g": 5},
)


def with_something_odd(value: Any, rng: random.Random) -> Any:
    """The same with one part, at any depth, replaced."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        changed = dict(value) if isinstance(value, dict) else list(value)
        changed[key] = with_something_odd(value[key], rng)
        return changed
    return rng.choice(ODD_VALUES)


def test_whatever_is_asked_is_honoured_or_refused(coded: dict[str, Path]) -> None:
    rng, config = random.Random(0), json.loads((coded["awq"] / "config.json").read_text())
    refused = 0
    for _ in range(1000):
        asked = with_something_odd(rng.choice([*FORMATS.values(), EXPERTS]).config, rng)
        try:
            read_config(config | {"quantization_config": asked})
        except ModelFilesError:
            refused += 1
    assert 500 < refused < 1000


def test_all_that_is_wrong_with_codes_is_said_at_once(coded: dict[str, Path], tmp_path: Path) -> None:
    place = changed(coded["gptq"], tmp_path / "model", {})
    tensors, at = load_file(place / "model.safetensors"), "model.layers.0.mlp.down_proj."
    tensors[f"{at}scales"] = tensors[f"{at}scales"][:2]
    tensors[f"{at}qweight"] = tensors[f"{at}qweight"].long()
    del tensors["model.layers.1.self_attn.q_proj.qzeros"]
    save_file({name: t.contiguous() for name, t in tensors.items()}, place / "model.safetensors")
    with pytest.raises(ModelFilesError) as refused:
        open_checkpoint(place, read_config(place)[0])
    said = str(refused.value)
    for part in (
        "3 problems",
        f"{at}scales: shape is [2, 48]",
        f"{at}qweight: dtype is I64",
        "q_proj.qzeros: is missing",
    ):
        assert part in said, said


def test_columns_in_another_order_than_their_groups_are_refused(coded: dict[str, Path], tmp_path: Path) -> None:
    place = changed(coded["gptq"], tmp_path / "model", {})
    tensors, name = load_file(place / "model.safetensors"), "model.layers.1.mlp.down_proj.g_idx"
    tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, place / "model.safetensors")
    with pytest.raises(ModelFilesError, match="desc_act") as refused:
        rows_of(place, "down.weight", 1, 0, GROUP)
    assert refused.value.code == "FP513"
