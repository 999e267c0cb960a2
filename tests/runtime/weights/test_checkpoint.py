"""Model directories: every format gives the same weights, and every bad one is refused before anything is read."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flexplan_runtime.models import family
from flexplan_runtime.weights.checkpoint import open_checkpoint
from flexplan_runtime.weights.dummy import DummyCheckpoint
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, logits, our_logits, reference_logits, saved, saved_npy
from transformers import AutoModelForCausalLM

from flexplan.errors import ModelFilesError, StorageError
from flexplan.model import read_config, weight_tensors
from flexplan.model.checkpoint import refuse_unusable_weights
from flexplan.model.config import shape_from_config
from flexplan.model.stored import INDEX, SINGLE

IDS_BS = torch.arange(2 * 9).reshape(2, 9) * 7 % 95 + 3
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    found = {name: root / name for name in ("llama", "opt", "mixtral", "sharded")}
    for name, path in found.items():
        options = {"max_shard_size": "20KB"} if name == "sharded" else {}
        saved(CONFIGS["llama" if name == "sharded" else name], path, **options)
    return found


@pytest.fixture
def copy_of(originals: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(originals[name], tmp_path / name))

    return copy


def problems(directory: Path) -> str:
    """What `open_checkpoint` says of a bad directory."""
    config = directory / "config.json"
    shape = shape_from_config(config if config.is_file() else CONFIGS["llama"].to_dict())
    with pytest.raises(ModelFilesError) as error:
        open_checkpoint(directory, shape)
    assert error.value.exit_code == 4
    assert error.value.fix
    if any(directory.glob("model*.safetensors*")) or any(directory.glob("*.bin")):  # .npy: only running looks into them
        with pytest.raises(ModelFilesError) as planned:
            refuse_unusable_weights(directory, shape)
        assert str(planned.value) == str(error.value)  # who plans is told what who runs would be
    return str(error.value)


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Save a safetensors file again with its tensors changed."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def with_header(file: Path, header: bytes, data: bytes = b"") -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header + data)


# -- formats ---------------------------------------------------------------------------------------------------------


def test_shards_give_what_a_single_file_gives(originals: dict[str, Path]) -> None:
    assert len(list(originals["sharded"].glob("*.safetensors"))) > 3
    assert torch.equal(our_logits(originals["sharded"], IDS_BS), our_logits(originals["llama"], IDS_BS))


@pytest.mark.parametrize("suffix", ["", ".npy"])
@pytest.mark.parametrize("name", ["opt", "llama"])
def test_one_array_a_file_is_read(name: str, suffix: str, tmp_path: Path) -> None:
    model = saved(CONFIGS[name], tmp_path / "hf")
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    saved_npy(model, tmp_path / "np", suffix)
    ours = our_logits(tmp_path / "hf", IDS_BS, weights=tmp_path / "np")
    torch.testing.assert_close(ours, reference_logits(model, IDS_BS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["decoder.", ""])
def test_an_opt_checkpoint_may_leave_out_the_prefix(prefix: str, copy_of: Callable[[str], Path]) -> None:
    path = copy_of("opt")
    expected = our_logits(path, IDS_BS)
    tensors = load_file(path / SINGLE)
    save_file({name.replace("model.decoder.", prefix): t for name, t in tensors.items()}, path / SINGLE)
    assert torch.equal(our_logits(path, IDS_BS), expected)


def test_a_tied_head_may_be_stored_again(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("opt")
    expected = our_logits(path, IDS_BS)
    rewrite(path / SINGLE, lambda t: t.update({"lm_head.weight": t["model.decoder.embed_tokens.weight"].clone()}))
    assert torch.equal(our_logits(path, IDS_BS), expected)


def test_fused_experts_are_read_too(copy_of: Callable[[str], Path]) -> None:
    def fuse(tensors: dict[str, Any]) -> None:
        for layer in range(2):
            old, new = f"model.layers.{layer}.block_sparse_moe.", f"model.layers.{layer}.mlp."
            w1, w2, w3 = (
                torch.stack([tensors.pop(f"{old}experts.{e}.w{n}.weight") for e in range(4)]) for n in (1, 2, 3)
            )
            tensors[f"{new}gate.weight"] = tensors.pop(f"{old}gate.weight")
            tensors[f"{new}experts.gate_up_proj"] = torch.cat([w1, w3], dim=1)
            tensors[f"{new}experts.down_proj"] = w2

    path = copy_of("mixtral")
    expected = our_logits(path, IDS_BS)
    rewrite(path / SINGLE, fuse)
    assert torch.equal(our_logits(path, IDS_BS), expected)


def test_shards_may_be_links_into_a_cache(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("sharded")
    blobs = path.parent / "blobs"
    blobs.mkdir()
    for n, shard in enumerate(sorted(path.glob("*.safetensors"))):
        shard.rename(blobs / str(n))
        shard.symlink_to(f"../blobs/{n}")
    assert our_logits(path, IDS_BS).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_are_converted_to_the_dtype_of_their_destination(
    dtype: torch.dtype, originals: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexplan_runtime.weights.checkpoint.CHUNK_BYTES", 1000)  # so that a chunk ends inside a row
    checkpoint = open_checkpoint(originals["llama"], shape_from_config(originals["llama"]))
    out = torch.empty(60, 32, dtype=dtype)
    checkpoint.read_rows("gate_up.weight", 0, 20, 60, out)  # the last 28 rows of the gate, the first 32 of up
    t = load_file(originals["llama"] / SINGLE)
    expected = torch.cat([t[UP.replace("up_proj", "gate_proj")], t[UP]])[20:80]
    assert torch.equal(out, expected.to(dtype))


def test_no_code_runs_and_nothing_is_mapped_while_weights_are_read(originals: dict[str, Path]) -> None:
    shape = shape_from_config(originals["sharded"])
    open_checkpoint(originals["sharded"], shape)  # whatever is imported late is imported now
    seen: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, _: seen.append(event) if watching[0] else None)
    checkpoint = open_checkpoint(originals["sharded"], shape)
    for t in weight_tensors(shape):
        checkpoint.read_rows(t.name, t.layer, 0, t.rows, torch.empty(t.rows, t.cols))
    watching[0] = False
    assert "open" in seen
    assert not [
        e for e in seen if e.split(".")[0] in {"exec", "compile", "import", "pickle", "subprocess", "socket", "mmap"}
    ]


# -- bad directories -------------------------------------------------------------------------------------------------


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert "no such model directory" in problems(tmp_path / "nowhere")


def test_an_empty_directory(tmp_path: Path) -> None:
    assert "is empty" in problems(tmp_path)


def test_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    assert "not a directory" in problems(tmp_path / "model")


def test_a_directory_with_pickles_only(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    text = problems(tmp_path)
    assert "FP521" in text
    assert "pytorch_model.bin; code-bearing files are not read" in text
    assert "convert" in text


def test_a_directory_without_weights(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("llama")
    (path / SINGLE).unlink()
    assert "holds no weights" in problems(path)


def test_all_problems_are_listed_at_once(copy_of: Callable[[str], Path]) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        del tensors["model.norm.weight"]
        tensors[UP] = torch.zeros(47, 32)
        tensors["lm_head.weight"] = torch.zeros(99, 32, dtype=torch.int32)

    path = copy_of("llama")
    rewrite(path / SINGLE, spoil)
    text = problems(path)
    assert "3 problems" in text
    assert "model.norm.weight: is missing" in text
    assert f"{UP}: shape is [47, 32], config.json wants [48, 32]" in text
    assert "lm_head.weight: dtype is I32" in text


def test_a_missing_tied_table_is_named_once(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("opt")
    rewrite(path / SINGLE, lambda t: t.pop("model.decoder.embed_tokens.weight"))
    assert "embed_tokens.weight: is missing" in problems(path)


@pytest.mark.parametrize("left", [0, 7, 8, 100, 5000, -1])
def test_a_truncated_file(left: int, copy_of: Callable[[str], Path]) -> None:
    path = copy_of("llama")
    content = (path / SINGLE).read_bytes()
    (path / SINGLE).write_bytes(content[:left])
    assert "truncated" in problems(path)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"a": 1}', "malformed"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "malformed"),
        (b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "malformed"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "another number"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', "truncated"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}', "twice"),
    ],
)
def test_a_header_of_garbage(header: bytes, said: str, copy_of: Callable[[str], Path]) -> None:
    path = copy_of("llama")
    with_header(path / SINGLE, header)
    assert said in problems(path)


def test_an_oversize_header_is_not_read(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("llama")
    with (path / SINGLE).open("wb") as file:  # a sparse file
        file.write((1 << 40).to_bytes(8, "little"))
        file.truncate((1 << 40) + 8)
    shape = shape_from_config(CONFIGS["llama"].to_dict())
    for read in (lambda: open_checkpoint(path, shape), lambda: read_config(path)):
        with pytest.raises(ModelFilesError, match="allowed are"):
            read()


def test_bytes_after_the_last_tensor(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("llama")
    with (path / SINGLE).open("ab") as file:
        file.write(b"more")
    assert "longer than its header says" in problems(path)


def test_a_pipe_instead_of_a_file(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("llama")
    (path / SINGLE).unlink()
    os.mkfifo(path / SINGLE)
    assert "not a regular file" in problems(path)


# -- bad indexes -----------------------------------------------------------------------------------------------------


def edit_index(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((path / INDEX).read_text())
    change(index["weight_map"])
    (path / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name", ["../evil.safetensors", "/etc/evil.safetensors", "a/b.safetensors", "..", "x.bin", 7, None]
)
def test_an_index_may_only_name_files_beside_it(name: object, copy_of: Callable[[str], Path]) -> None:
    path = copy_of("sharded")
    edit_index(path, lambda m: m.update({UP: name}))
    opened: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if watching[0] and event == "open" else None)
    text = problems(path)
    watching[0] = False
    assert "was not opened" in text
    assert not [o for o in opened if "evil" in o or "b.safetensors" in o]


def test_a_missing_shard_is_one_problem(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("sharded")
    shard = sorted(path.glob("*.safetensors"))[1]
    shard.unlink()
    text = problems(path)
    assert "1 problem:" in text
    assert f"{shard.name}: cannot be read: No such file" in text


def test_truncated_and_missing_shards_are_both_named(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("sharded")
    first, second, *_ = sorted(path.glob("*.safetensors"))
    os.truncate(first, first.stat().st_size - 1)
    second.unlink()
    text = problems(path)
    assert "2 problems" in text
    assert f"{first.name}: is truncated" in text


def test_a_tensor_that_is_in_no_shard(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("sharded")
    shards = sorted(path.glob("*.safetensors"))
    holder = next(file for file in shards if UP in load_file(file))
    rewrite(holder, lambda t: t.pop(UP))
    assert f"{UP}: the index says it is in {holder.name}, which does not have it" in problems(path)


def test_an_index_may_be_wrong_about_where_a_tensor_is_and_name_tensors_that_nobody_needs(
    originals: dict[str, Path], copy_of: Callable[[str], Path]
) -> None:
    path = copy_of("sharded")
    other, first = (sorted(path.glob("*.safetensors"))[n].name for n in (-1, 0))
    edit_index(path, lambda m: m.update({UP: other, "model.layers.0.self_attn.rotary_emb.inv_freq": first}))
    assert torch.equal(our_logits(path, IDS_BS), our_logits(originals["sharded"], IDS_BS))
    expected = AutoModelForCausalLM.from_pretrained(path)(IDS_BS).logits
    torch.testing.assert_close(our_logits(path, IDS_BS), expected.detach(), atol=1e-4, rtol=1e-4)


def test_an_untied_head_that_is_not_stored_is_refused_when_the_config_is_read(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("llama")
    rewrite(path / SINGLE, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(ModelFilesError, match=r"tie_word_embeddings is false.*hold no head") as refused:
        read_config(path)
    assert refused.value.code == "FP508"


def test_a_header_or_an_index_that_is_too_large_to_look_through_is_refused_at_once(
    copy_of: Callable[[str], Path],
) -> None:
    one, many = copy_of("llama"), copy_of("sharded")
    with_header(one / SINGLE, b" " * (9 << 20))
    edit_index(many, lambda m: m.update({f"t{n}": f"{n}.safetensors" for n in range(60_000)}))
    for path, said in ((one, "bytes of header"), (many, "files")):
        started = time.process_time()
        with pytest.raises(ModelFilesError, match=said) as refused:
            read_config(path)
        assert refused.value.code == "FP509"
        assert time.process_time() - started < 1


def test_tensors_that_nobody_needs_are_left_alone(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("llama")
    expected = our_logits(path, IDS_BS)
    more = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "model.layers.7.mlp.x": torch.ones(1, 1)}
    rewrite(path / SINGLE, lambda t: t.update(more))
    assert torch.equal(our_logits(path, IDS_BS), expected)


def test_a_head_and_its_tied_table_are_one_whichever_is_stored(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("opt")
    expected = our_logits(path, IDS_BS)
    rewrite(path / SINGLE, lambda t: t.update({"lm_head.weight": t.pop("model.decoder.embed_tokens.weight")}))
    assert torch.equal(our_logits(path, IDS_BS), expected)
    theirs = AutoModelForCausalLM.from_pretrained(path)(IDS_BS).logits.detach()
    torch.testing.assert_close(expected, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", ["opt", "llama tied"])
def test_a_tied_head_that_is_stored_and_differs_is_used_untied_with_a_warning(model: str, tmp_path: Path) -> None:
    saved(CONFIGS[model], tmp_path)
    rewrite(tmp_path / SINGLE, lambda t: t.update({"lm_head.weight": torch.randn(99, 32)}))
    with pytest.warns(UserWarning, match="a head is stored and differs"):
        shape = shape_from_config(tmp_path)
    assert not shape.tied_embeddings
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)(IDS_BS).logits.detach()
    torch.testing.assert_close(our_logits(tmp_path, IDS_BS), theirs, atol=1e-4, rtol=1e-4)


def test_a_tensor_in_two_shards(copy_of: Callable[[str], Path]) -> None:
    path = copy_of("sharded")
    rewrite(sorted(path.glob("*.safetensors"))[-1], lambda t: t.update({UP: torch.zeros(48, 32)}))
    text = problems(path)
    assert f"{UP}: is in two shards" in text


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": "x", "a": "y"}}'])
def test_an_index_of_garbage(content: str, copy_of: Callable[[str], Path]) -> None:
    path = copy_of("sharded")
    (path / INDEX).write_text(content)
    assert INDEX in problems(path)


# -- bad arrays ------------------------------------------------------------------------------------------------------


@pytest.fixture
def arrays(copy_of: Callable[[str], Path], tmp_path: Path) -> Path:
    model = saved(CONFIGS["llama"], tmp_path / "hf")
    saved_npy(model, tmp_path / "np")
    shutil.copy(tmp_path / "hf" / "config.json", tmp_path / "np")
    return tmp_path / "np"


def test_bad_arrays_are_listed_at_once(arrays: Path) -> None:
    (arrays / "norm.weight").unlink()
    os.truncate(arrays / "lm_head.weight", 1000)
    np.save((arrays / "layers.0.mlp.up_proj.weight").open("wb"), np.zeros((47, 32), np.float16))
    (arrays / "layers.1.mlp.up_proj.weight").write_bytes(b"no array")
    np.save((arrays / "layers.1.mlp.gate_proj.weight").open("wb"), np.zeros((48, 32), np.int64))
    np.save((arrays / "layers.1.mlp.down_proj.weight").open("wb"), np.asfortranarray(np.zeros((32, 48), np.float16)))
    text = problems(arrays)
    assert "6 problems" in text
    for said in ("norm.weight: is missing", "truncated", "[47, 32]", "dtype is <i8", "column by column"):
        assert said in text


def test_an_array_of_objects_is_not_unpickled(arrays: Path) -> None:
    array = np.array([[print] * 32] * 99, dtype=object)
    np.save((arrays / "lm_head.weight").open("wb"), array, allow_pickle=True)
    assert "lm_head.weight" in problems(arrays)


# -- files that change under a run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["truncate", "replace", "remove"])
def test_a_file_that_changes_under_a_run_is_a_storage_failure(harm: str, copy_of: Callable[[str], Path]) -> None:
    path = copy_of("llama")
    checkpoint = open_checkpoint(path, shape_from_config(path))
    file = path / SINGLE
    if harm == "truncate":
        os.truncate(file, 3000)
    elif harm == "replace":
        shutil.copy(file, path / "new")
        (path / "new").rename(file)
    else:
        file.unlink()
    with pytest.raises(StorageError, match=r"model\.safetensors"):
        checkpoint.read_rows("lm_head.weight", 2, 0, 99, torch.empty(99, 32))


# -- dummy weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dummy_rows_do_not_depend_on_how_they_are_asked_for(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexplan_runtime.weights.dummy._SPAN", 1024)
    dummy = DummyCheckpoint(shape_from_config(CONFIGS["llama"].to_dict()), seed=1)
    all_rows, some = torch.empty(96, 32, dtype=dtype), torch.empty(50, 32, dtype=dtype)
    dummy.read_rows("gate_up.weight", 1, 0, 96, all_rows)
    dummy.read_rows("gate_up.weight", 1, 30, 50, some)
    assert torch.equal(some, all_rows[30:80])
    assert len(all_rows.unique(dim=0)) == 96


def test_dummy_weights_differ_by_layer_name_and_seed() -> None:
    shape = shape_from_config(CONFIGS["llama"].to_dict())
    seen = []
    for seed, layer, name in [
        (0, 0, "gate_up.weight"),
        (0, 1, "gate_up.weight"),
        (0, 0, "qkv.weight"),
        (1, 0, "qkv.weight"),
    ]:
        seen.append(torch.empty(64, 32))
        DummyCheckpoint(shape, seed).read_rows(name, layer, 0, 64, seen[-1])
    assert len(torch.stack(seen).flatten(1).unique(dim=0)) == 4


@pytest.mark.parametrize("name", ["opt", "opt post-norm, projected", "llama", "mixtral"])
def test_dummy_weights_make_finite_logits_that_tell_tokens_apart(name: str) -> None:
    shape, math = read_config(CONFIGS[name].to_dict())
    found = logits(family(shape, math), DummyCheckpoint(shape), IDS_BS)
    assert found.isfinite().all()
    assert found.std(-1).min() > 1e-4


def test_skewed_dummy_weights_want_some_experts_more_often_wherever_they_lie() -> None:
    shape, math = read_config(CONFIGS["qwen3 with experts"].to_dict())
    shape = shape.model_copy(update={"num_experts": 64, "experts_per_token": 8, "hidden_size": 128})
    found = []
    for layer in (0, 1):
        router = torch.empty(64, 128)
        DummyCheckpoint(shape, skewed=True).read_rows("router.weight", layer, 0, 40, router[:40])
        DummyCheckpoint(shape, skewed=True).read_rows("router.weight", layer, 40, 24, router[40:])
        tokens_TD = torch.randn(4000, 128, generator=torch.Generator().manual_seed(1))
        experts = family(shape, math).route({"router.weight": (router,)}, tokens_TD)[1]
        found.append(torch.bincount(experts.flatten(), minlength=64) / 4000)
    for shares in found:
        most = shares.sort(descending=True).values
        assert 0.4 < most[3] < 0.5
        for n in (8, 16, 32):  # from there on as 1/n
            assert n * most[n - 1] == pytest.approx(most[7:].mul(torch.arange(8, 65)).mean(), rel=0.25)
    assert not torch.equal(*(shares.argsort() for shares in found))
