"""Models that are given by name or by the directory of another tool: found, or called what they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.errors import FlexplanError, ModelFilesError
from flexplan.model import read_config, read_model
from flexplan.model.catalog import model_config
from flexplan.model.checkpoint import parameter_sources
from flexplan.model.places import cached, hub_cache
from flexplan.problem import Problem

CONFIG = {
    "model_type": "llama",
    "vocab_size": 199,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "torch_dtype": "float32",
}
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and caches of the test's own."""
    for variable in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def in_hub_cache(name: str, *, ref: str | None = REVISION, config: dict[str, object] = CONFIG) -> Path:
    """A model in the cache of the hub; its directory ``models--org--name``."""
    place = hub_cache() / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(config))
    if ref is not None:
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(ref)
    return place


def refusal(name: str | Path, code: str) -> str:
    with pytest.raises(FlexplanError) as refused:
        read_model(name)
    assert refused.value.code == code
    assert refused.value.fix
    return str(refused.value)


def test_a_model_of_the_hub_s_cache_is_known_by_its_name() -> None:
    in_hub_cache("org/tiny")
    shape, _ = read_model("org/tiny")
    assert (shape.name, shape.num_layers, shape.vocab_size) == ("org/tiny", 2, 199)


def test_where_a_name_was_looked_for_is_said() -> None:
    assert str(hub_cache()) in refusal("org/tiny", "FP120")


def test_what_is_on_this_machine_comes_before_the_catalog() -> None:
    in_hub_cache("facebook/opt-125m")
    assert read_model("facebook/opt-125m")[0].vocab_size == 199
    assert read_model("opt-125m")[0].vocab_size == 199


def test_flexplan_s_own_download_comes_before_the_hub_s_cache(home: Path) -> None:
    in_hub_cache("org/tiny")
    own = home / "cache" / "flexplan" / "models" / "org" / "tiny"
    own.mkdir(parents=True)
    (own / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 3}))
    assert read_model("org/tiny")[0].num_layers == 3


def test_a_directory_of_the_hub_s_cache_is_its_main_snapshot() -> None:
    place = in_hub_cache("org/tiny")
    for given in (place, place / "snapshots", place / "snapshots" / REVISION):
        assert read_model(given)[0].name == "org/tiny"


@pytest.mark.parametrize("ref", [None, "", "elsewhere", "../../..", "x" * 5000, "\0"])
def test_a_directory_of_the_hub_s_cache_without_a_main_snapshot_names_one(ref: str | None) -> None:
    place = in_hub_cache("org/tiny", ref=ref)
    assert f"snapshots/{REVISION}" in refusal(place, "FP524")
    refusal("org/tiny", "FP120")


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"])
def test_the_cache_lies_where_the_hub_s_client_keeps_it(
    variable: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    import subprocess
    import sys

    if variable == "HOME":
        monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv(variable, str(home / "elsewhere"))
    in_hub_cache("org/tiny")
    code = "from huggingface_hub import try_to_load_from_cache as t; print(t('org/tiny', 'config.json'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert [str(place / "config.json") for place in cached("org/tiny")] == [found]


def npy_directory(place: Path) -> Path:
    place.mkdir()
    (place / "decoder.embed_tokens.weight").write_bytes(b"")
    return place


@pytest.mark.parametrize(
    ("name", "model"),
    [("opt-125m-np", "facebook/opt-125m"), ("OPT-30B-np", "facebook/opt-30b"), ("opt-1.3b", "facebook/opt-1.3b")],
)
def test_one_file_a_tensor_is_the_model_that_the_directory_s_name_says(name: str, model: str, home: Path) -> None:
    assert read_model(npy_directory(home / name))[0] == read_model(model)[0]


def test_one_file_a_tensor_under_another_name_wants_a_config(home: Path) -> None:
    place = npy_directory(home / "mine-np")
    assert "mine-np is the name of no known model" in refusal(place, "FP528")
    (place / "config.json").write_text(json.dumps(model_config("opt-125m")))
    assert read_model(place)[0].num_layers == 12


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("m-Q4_K_M.gguf", "GGUF"),
        ("adapter_config.json", "adapter"),
        ("consolidated.00.pth", "maker's own format"),
        ("model_index.json", "images"),
    ],
)
def test_a_directory_of_another_format_is_called_what_it_is(file: str, said: str, home: Path) -> None:
    (home / "model").mkdir()
    (home / "model" / file).write_bytes(b"GGUF")
    assert said in refusal(home / "model", "FP525")


def test_a_gguf_file_is_called_what_it_is(home: Path) -> None:
    (home / "m.gguf").write_bytes(b"GGUF\3\0\0\0")
    assert "flexplan convert" in refusal(home / "m.gguf", "FP529")


def model_directory(home: Path, **keys: object) -> Path:
    (home / "model").mkdir()
    (home / "model" / "config.json").write_text(json.dumps(CONFIG | keys))
    return home / "model"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"quantization": {"bits": 4, "group_size": 64}}, "MLX"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "aqlm"),
        ({"quantization_config": {"quant_method": ["fp8"]}}, "quantization_config"),
        ({"quantization_config": "fp8"}, "quantization_config"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
    ],
)
def test_packed_weights_are_named_when_the_config_is_read(keys: dict[str, object], said: str, home: Path) -> None:
    text = refusal(model_directory(home, **keys), "FP504")
    assert said in text and "16" in text


def test_modelopt_says_in_a_file_of_its_own_that_weights_are_packed(home: Path) -> None:
    place = model_directory(home)
    (place / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert "modelopt" in refusal(place, "FP504")


@pytest.mark.parametrize("family", ["kimi_linear", "deepseek_v32"])
def test_the_type_of_a_model_is_looked_at_before_anything_else(family: str, home: Path) -> None:
    more = {"quantization_config": {"quant_method": "mxfp4"}, "auto_map": {"AutoConfig": "c.C"}}
    text = refusal(model_directory(home, model_type=family, **more), "FP504")
    assert family in text and "packed" not in text and "run code" not in text


def test_a_git_lfs_pointer_is_called_one(home: Path) -> None:
    place = model_directory(home)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    (place / "model.safetensors").write_bytes(pointer)
    assert "git lfs pull" in refusal(place, "FP527")
    (place / "config.json").write_bytes(pointer)
    assert "git lfs pull" in refusal(place, "FP501")


def test_matrices_of_codes_are_packed_whatever_the_config_says(home: Path) -> None:
    numpy, safetensors = pytest.importorskip("numpy"), pytest.importorskip("safetensors.numpy")
    place = model_directory(home)
    name = "model.layers.0.mlp.up_proj.weight"
    safetensors.save_file({name: numpy.zeros((48, 4), numpy.uint32)}, place / "model.safetensors")
    assert f"{name} is stored as U32" in refusal(place, "FP504")


def test_a_config_of_code_runs_where_its_type_is_known(home: Path) -> None:
    place = model_directory(home, auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    assert read_model(place)[0].num_layers == 2


def test_what_is_read_is_a_model_files_error_even_for_a_name(home: Path) -> None:
    in_hub_cache("google/gemma-2-2b", config=CONFIG | {"model_type": "cohere2"})
    with pytest.raises(ModelFilesError, match="cohere2"):
        read_model("google/gemma-2-2b")


def weights_of(config: Mapping[str, object], spoil: Callable[[dict[str, Any]], object] = lambda header: None) -> bytes:
    """A safetensors file of zeros of what `config` wants, its header spoilt by `spoil`."""
    header, at = dict[str, Any](), 0
    for source in parameter_sources(read_config(config)[0], frozenset()):
        size = 4 * prod(source.hf_shape)
        header[source.hf_name] = {"dtype": "F32", "shape": source.hf_shape, "data_offsets": [at, at + size]}
        at += size
    spoil(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(max(e["data_offsets"][1] for e in header.values()))


NORM = "model.norm.weight"


def renamed(header: dict[str, Any]) -> None:
    header["lost"] = header.pop(NORM)


def in_integers(header: dict[str, Any]) -> None:
    header[NORM]["dtype"] = "I32"


def reshaped(header: dict[str, Any]) -> None:
    header[NORM]["shape"] = [2, 16]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (renamed, f"{NORM}: is missing"),
        (in_integers, f"{NORM}: dtype is I32"),
        (reshaped, f"{NORM}: shape is [2, 16], config.json wants [32]"),
    ],
)
def test_weights_that_no_run_takes_are_refused_before_planning(
    spoil: Callable[[dict[str, Any]], object], said: str, home: Path
) -> None:
    place = model_directory(home)
    (place / "model.safetensors").write_bytes(weights_of(CONFIG))
    sizes = Problem.of(place, prompt_len=8, gen_len=8).model
    (place / "model.safetensors").write_bytes(weights_of(CONFIG, spoil))
    with pytest.raises(ModelFilesError, match="FP522") as refused:
        Problem.of(place, prompt_len=8, gen_len=8)
    assert said in str(refused.value)
    assert Problem.of(place / "config.json", prompt_len=8, gen_len=8).model == sizes  # by its sizes alone


def test_code_bearing_weights_are_refused_before_planning(home: Path) -> None:
    place = model_directory(home)
    Problem.of(place, prompt_len=8, gen_len=8)  # no weights yet: by its sizes
    (place / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelFilesError, match="FP521"):
        Problem.of(place, prompt_len=8, gen_len=8)
    result = CliRunner().invoke(app, ["solve", "--model", str(place), "--gpu-mem", "1G", "--cpu-mem", "1G"])
    assert result.exit_code == 4 and "FP521" in result.stderr and not result.stdout


def test_a_tensor_that_lies_in_a_file_of_its_own_is_missed_by_name(home: Path) -> None:
    place = model_directory(home)
    for source in parameter_sources(read_config(CONFIG)[0], frozenset()):
        (place / source.hf_name).write_bytes(b"")  # what is in it running will say
    Problem.of(place, prompt_len=8, gen_len=8)
    (place / NORM).unlink()
    with pytest.raises(ModelFilesError, match=f"{NORM}: is missing"):
        Problem.of(place, prompt_len=8, gen_len=8)
