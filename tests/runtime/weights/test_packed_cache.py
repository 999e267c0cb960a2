"""Packed weights on disk: quantised once, the same bytes at any cut, and never used where they are not right."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.weights import PackedFiles, packed_cache, read_packed
from flexplan_runtime.weights import packed as packed_weights
from flexplan_runtime.weights.checkpoint import open_checkpoint
from flexplan_runtime.weights.packed import chunk_rows
from policies import text_prompts
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.errors import StorageError
from flexplan.model import read_model, weight_tensors
from flexplan.placement import Piece
from flexplan.placement.weights import place_weights
from flexplan.policy import CompressionConfig, Policy
from flexplan.testing import policy_with

MIXED = policy_with(2, 1, w=(30.0, 40.0), compress_weight=True, comp_weight_config=CompressionConfig(4, 16, 0))
ELSEWHERE = replace(MIXED, w_gpu_percent=10.0, w_cpu_percent=15.0)
MATRICES = 4 * 4  # of the embedded model's layers
Quantised = list[tuple[str, int, int]]


@pytest.fixture
def quantised(monkeypatch: pytest.MonkeyPatch) -> Quantised:
    """Every call that quantises: (tensor, first row, rows)."""
    calls: Quantised = []
    plain = packed_weights.quantised

    def counting(reader: Any, tensor: Any, row: int, rows: int, dtype: Any) -> Any:
        calls.append((tensor.name, row, rows))
        return plain(reader, tensor, row, rows, dtype)

    monkeypatch.setattr(packed_weights, "quantised", counting)
    monkeypatch.setattr(packed_cache, "quantised", counting)
    return calls


@pytest.fixture
def tokens(tmp_path: Path) -> Callable[..., Any]:
    """What a model generates when it is opened with this directory of packed weights."""

    def generate(model: Path, policy: Policy = MIXED, kept: Path | None = tmp_path / "kept") -> Any:
        with (
            ExecutionEnv.create(tmp_path / "off", device="cpu", num_threads=2) as env,
            OffloadedLM(model, env, model, policy, dtype="float32", packed_cache=kept) as lm,
        ):
            return lm.generate(text_prompts(model)[:3], max_new_tokens=4).tolist()

    return generate


@pytest.fixture
def kept(tokens: Callable[..., Any], tiny_opt: Path, tmp_path: Path, quantised: Quantised) -> Iterator[list[Path]]:
    """The files of a first opening; nothing else may be left there."""
    tokens(tiny_opt)
    quantised.clear()
    yield sorted(path for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert not list((tmp_path / "kept").rglob(".*"))


def warned(act: Callable[[], Any]) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        return act(), [str(w.message) for w in found if "quantised again" in str(w.message) or "kept" in str(w.message)]


# -- once --------------------------------------------------------------------------------------------------------------
def test_second_opening_quantises_nothing_at_any_placement(
    tokens: Callable[..., Any], tiny_opt: Path, quantised: Quantised, kept: list[Path]
) -> None:
    expected = tokens(tiny_opt, kept=None)
    assert len(quantised) > MATRICES  # so the calls are seen
    quantised.clear()
    assert len(kept) == MATRICES
    assert tokens(tiny_opt) == tokens(tiny_opt, ELSEWHERE) == expected
    assert not quantised


@pytest.mark.parametrize("config", [CompressionConfig(4, 48, 0), CompressionConfig(8, 16, 1, symmetric=True)], ids=str)
def test_bytes_are_those_of_quantising_at_every_cut(
    config: CompressionConfig, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        packed_weights, "_ELEMENTS", 50_000
    )  # so that a tensor has several chunks, the last a short one
    shape = read_model(str(tiny_opt))[0]
    reader, files, cuts = open_checkpoint(tiny_opt, shape), PackedFiles(tmp_path), set()
    for gpu, cpu in ((100.0, 0.0), (7.5, 61.0), (34.0, 33.0), (0.0, 50.0)):
        policy = replace(MIXED, w_gpu_percent=gpu, w_cpu_percent=cpu, comp_weight_config=config)
        for piece in (p for layer in place_weights(shape, policy) for p in layer.pieces if p.tensor.packing):
            ours, theirs = (torch.full((piece.nbytes,), 255, dtype=torch.uint8) for _ in range(2))
            files.read(reader, piece, ours, torch.float16)
            read_packed(reader, piece, theirs, torch.float16)
            assert torch.equal(ours, theirs)
            cuts.add(piece.row_lo % chunk_rows(piece.tensor))
    assert len(cuts) > 5


def test_dtypes_and_packings_do_not_meet(tokens: Callable[..., Any], tiny_opt: Path, kept: list[Path]) -> None:
    finer = replace(MIXED, comp_weight_config=CompressionConfig(8, 16, 0))
    (found, said) = warned(lambda: tokens(tiny_opt, finer))
    assert found == tokens(tiny_opt, finer, kept=None)
    assert not said
    assert len(list(kept[0].parent.iterdir())) == 2 * MATRICES


def test_dummy_weights_are_not_kept(tiny_opt: Path, tmp_path: Path) -> None:
    with ExecutionEnv.create(tmp_path / "off", device="cpu") as env:
        OffloadedLM(tiny_opt, env, "_DUMMY_", MIXED, packed_cache=tmp_path / "kept").close()
    assert not (tmp_path / "kept").exists()


# -- never wrong -------------------------------------------------------------------------------------------------------
def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "a flipped bit":
        data[len(data) // 3] ^= 4
    elif how == "a flipped bit of a checksum":
        data[-36] ^= 1
    elif how == "cut short":
        data = data[:-100]
    elif how == "empty":
        data = bytearray()
    elif how == "longer":
        data += b"x"
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["a flipped bit", "a flipped bit of a checksum", "cut short", "empty", "longer"])
def test_damage_is_noticed_told_and_repaired(
    how: str, tokens: Callable[..., Any], tiny_opt: Path, quantised: Quantised, kept: list[Path]
) -> None:
    whole = kept[5].read_bytes()
    damage(kept[5], how)
    found, said = warned(lambda: tokens(tiny_opt))
    assert len(said) == 1 and str(kept[5]) in said[0]
    assert len(quantised) == 1  # the tensor of that file, and no other
    assert kept[5].read_bytes() == whole
    assert found == tokens(tiny_opt, kept=None)


def test_files_of_other_weights_are_not_used(
    tokens: Callable[..., Any], tiny_opt: Path, quantised: Quantised, kept: list[Path]
) -> None:
    """Two tensors of one shape, swapped: every checksum is right."""
    first, second = (next(p for p in kept if p.name.startswith(f"{layer}.out.weight")) for layer in (0, 1))
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    found, said = warned(lambda: tokens(tiny_opt))
    assert len(said) == 2 and all("other weights" in message for message in said)
    assert (first.read_bytes(), second.read_bytes()) == contents
    assert found == tokens(tiny_opt, kept=None)


def test_changed_checkpoint_is_quantised_anew(
    tokens: Callable[..., Any], tiny_opt: Path, tmp_path: Path, quantised: Quantised
) -> None:
    model = Path(shutil.copytree(tiny_opt, tmp_path / "model"))
    tokens(model)
    quantised.clear()
    file = model / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-20_000:] = bytes(20_000)
    file.write_bytes(data)  # the same name and size
    os.utime(file, ns=(1, 1))
    assert tokens(model) == tokens(model, kept=None)
    assert len(quantised) >= MATRICES


def test_error_of_the_checkpoint_is_an_error_and_leaves_no_file(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(tiny_opt, tmp_path / "model"))
    shape = read_model(str(model))[0]
    reader = open_checkpoint(model, shape)
    os.utime(model / "model.safetensors", ns=(1, 1))
    tensor = next(t for t in weight_tensors(shape, MIXED.weight_packing(2)) if t.packing)
    with pytest.raises(StorageError, match="changed"):
        PackedFiles(tmp_path / "kept").read(
            reader,
            Piece(tensor, 0, tensor.rows, "cpu", 0),
            torch.empty(tensor.nbytes, dtype=torch.uint8),
            torch.float16,
        )
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


# -- shared, and not to be written -------------------------------------------------------------------------------------
WRITER = """
import sys, warnings
warnings.simplefilter("error")
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan.policy import CompressionConfig, Policy
model, place, kept = sys.argv[1:]
policy = Policy(2, 1, 30.0, 40.0, compress_weight=True, comp_weight_config=CompressionConfig(4, 16, 0))
for _ in range(3):
    with ExecutionEnv.create(place, device="cpu", num_threads=2) as env:
        OffloadedLM(model, env, model, policy, dtype="float32", packed_cache=kept).close()
"""


def test_processes_share_a_directory(tokens: Callable[..., Any], tiny_opt: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tiny_opt), str(tmp_path / "off"), str(tmp_path / "kept")]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for writer in writers:
        _, said = writer.communicate(timeout=240)
        assert writer.returncode == 0, said
    assert len([path for path in (tmp_path / "kept").rglob("*") if path.is_file()]) == MATRICES
    found, said = warned(lambda: tokens(tiny_opt))
    assert not said
    assert found == tokens(tiny_opt, kept=None)


KILLED = """
import os, signal
from flexplan_runtime.weights import packed_cache
plain, calls = packed_cache.quantised, []
def quantised(*args):
    calls.append(args)
    if len(calls) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*args)
packed_cache.quantised = quantised
"""


def test_what_a_killed_opening_left_is_gone_after_the_next(
    tokens: Callable[..., Any], tiny_opt: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED + WRITER, str(tiny_opt), str(tmp_path / "off"), str(tmp_path / "kept")]
    assert subprocess.run(command, timeout=240).returncode == -signal.SIGKILL
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert any(path.name.startswith(".") for path in files)
    found, said = warned(lambda: tokens(tiny_opt))
    assert not said
    assert found == tokens(tiny_opt, kept=None)
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert len(files) == MATRICES and not [path for path in files if path.name.startswith(".")]


@pytest.mark.parametrize("full", [False, True], ids=["may not be written", "disk is full"])
def test_directory_that_cannot_be_written_is_one_warning(
    full: bool, tokens: Callable[..., Any], tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if full:

        def refuse(chunk: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(packed_cache, "crc32", refuse)  # in the middle of writing a file
    else:
        (tmp_path / "kept").write_text("a file, so that nobody, not even root, can make a directory of it")
    found, said = warned(lambda: tokens(tiny_opt))
    assert len([message for message in said if "cannot be kept" in message]) == 1
    assert found == tokens(tiny_opt, kept=None)
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


def test_read_only_directory_serves_what_it_has(
    tokens: Callable[..., Any], tiny_opt: Path, quantised: Quantised, kept: list[Path]
) -> None:
    for path in kept:
        path.chmod(0o444)
    kept[0].parent.chmod(0o555)
    found, said = warned(lambda: tokens(tiny_opt))
    kept[0].parent.chmod(0o755)
    assert not said and not quantised
    assert found == tokens(tiny_opt, kept=None)


def test_commands_take_the_directory(tiny_opt: Path, tmp_path: Path, quantised: Quantised) -> None:
    policy, prompts = tmp_path / "policy.json", tmp_path / "in.txt"
    policy.write_text(MIXED.to_json())
    prompts.write_text("Python")
    base = ["--model", str(tiny_opt), "--device", "cpu", "--offload-dir", str(tmp_path / "off")]
    more = ["--packed-cache", str(tmp_path / "kept"), "--max-new-tokens", "2"]
    run = ["run", str(policy), "-o", str(tmp_path / "out"), "--prompts", str(prompts), *base, *more]
    assert CliRunner().invoke(app, run).exit_code == 0
    assert len(quantised) == MATRICES
    bench = ["bench", str(policy), "--prompt-len", "4", *base, *more]
    assert CliRunner().invoke(app, bench).exit_code == 0
    assert len(quantised) == MATRICES
