"""Model directories that are made to hurt: refused within a second, as the safetensors package refuses them."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
from flexplan_runtime.weights import open_model, resolve_model
from flexplan_runtime.weights.checkpoint import open_checkpoint
from flexplan_runtime.weights.files import read_npy

from flexplan.errors import FlexplanError, ModelFilesError
from flexplan.model import read_model
from flexplan.model.checkpoint import read_safetensors
from flexplan.model.stored import INDEX, SINGLE

SLOWEST_S = 1.0


@pytest.fixture
def model(tiny_opt: Path, tmp_path: Path) -> Path:
    """A copy of the embedded model."""
    return Path(shutil.copytree(tiny_opt, tmp_path / "model", copy_function=shutil.copyfile))


def file_of(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def refused(model: Path) -> str:
    """What `solve` or else `run` says of a directory, in time."""
    began = time.process_time()
    with pytest.raises(FlexplanError) as error:
        read_model(model)
        open_model(model, resolve_model(model), 0)
    assert time.process_time() - began < SLOWEST_S
    assert isinstance(error.value, ModelFilesError)
    return str(error.value)


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BAD = {
    "overlap": ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)}, 8),
    "the same bytes twice": ({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 0, 8)}, 8),
    "a hole in the middle": ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, 12),
    "a hole at the beginning": ({"a": entry("F32", [1], 4, 8)}, 8),
    "bytes at the end": ({"a": entry("F32", [1], 0, 4)}, 8),
    "too few bytes": ({"a": entry("F32", [1], 0, 4)}, 2),
    "another number of bytes": ({"a": entry("F32", [3], 0, 8)}, 8),
    "an integer of another number of bytes": ({"a": entry("I64", [3], 0, 8)}, 8),
    "an unknown type": ({"a": entry("F33", [1], 0, 4)}, 4),
    "offsets that go back": ({"a": entry("F32", [0], 4, 0)}, 4),
    "a negative size": ({"a": entry("F32", [-1, -1], 0, 4)}, 4),
    "a size beyond 64 bits": ({"a": entry("F32", [2**64], 0, 4)}, 4),
    "a product beyond 64 bits": ({"a": entry("F32", [2**40, 2**40], 0, 4)}, 4),
    "metadata that is no text": ({"__metadata__": {"a": 1}, "a": entry("F32", [1], 0, 4)}, 4),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, 4),
    "three offsets": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, 4),
    "no tensor": ({"a": 7}, 0),
}
GOOD = {
    "one": ({"a": entry("F32", [1], 0, 4)}, 4),
    "two, the last first": ({"b": entry("F16", [2], 4, 8), "a": entry("F32", [], 0, 4)}, 8),
    "none of no bytes": ({"a": entry("F32", [0], 0, 0), "b": entry("BF16", [2, 1], 0, 4)}, 4),
    "metadata": ({"__metadata__": {"format": "pt"}, "a": entry("I8", [4], 0, 4)}, 4),
    "no tensors": ({}, 0),
}


def verdicts(path: Path) -> tuple[bool, bool]:
    """Whether flexplan, and whether safetensors takes a file."""
    try:
        read_safetensors(path)
        ours = True
    except ValueError:
        ours = False
    try:
        with safetensors.safe_open(path, "numpy"):
            theirs = True
    except (safetensors.SafetensorError, OSError):
        theirs = False
    return ours, theirs


@pytest.mark.parametrize("what", BAD)
def test_what_safetensors_refuses_is_refused(what: str, tmp_path: Path) -> None:
    header, nbytes = BAD[what]
    (tmp_path / "x").write_bytes(file_of(json.dumps(header).encode(), bytes(nbytes)))
    assert verdicts(tmp_path / "x") == (False, False)


@pytest.mark.parametrize("what", GOOD)
def test_what_safetensors_takes_is_taken(what: str, tmp_path: Path) -> None:
    header, nbytes = GOOD[what]
    (tmp_path / "x").write_bytes(file_of(json.dumps(header).encode(), bytes(nbytes)))
    assert verdicts(tmp_path / "x") == (True, True)


def mixed_headers(rng: random.Random) -> Iterator[tuple[dict[str, object], int]]:
    """Headers of a few tensors, most of them with one number out of place."""
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "I64": 8, "F8_E4M3": 1}
    while True:
        at, header = 0, dict[str, object]()
        for n in range(rng.randint(1, 4)):
            dtype, shape = rng.choice([*sizes]), [rng.randint(0, 3) for _ in range(rng.randint(0, 3))]
            nbytes = sizes[dtype]
            for size in shape:
                nbytes *= size
            moved = rng.choice([0] * 6 + [1, -1, 4, -4])
            header[f"t{n}"] = entry(dtype, shape, at + moved, at + nbytes + rng.choice([moved, moved, 0]))
            at += nbytes
        yield header, max(0, at + rng.choice([0] * 6 + [1, -1]))


def test_of_any_header_flexplan_thinks_as_safetensors_does(tmp_path: Path) -> None:
    seen = set()
    headers = mixed_headers(random.Random(0))
    for _ in range(400):
        header, nbytes = next(headers)
        (tmp_path / "x").write_bytes(file_of(json.dumps(header).encode(), bytes(nbytes)))
        ours, theirs = verdicts(tmp_path / "x")
        assert ours == theirs, (header, nbytes)
        seen.add(ours)
    assert seen == {True, False}


def test_a_shape_of_thousands_of_dimensions_is_not_multiplied(model: Path) -> None:
    raw = (model / SINGLE).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    for digits, dimensions in ((4000, 1500), (4000, 2500), (1, 500_000)):
        shape = b",".join([b"9" * digits] * dimensions)
        more = b',"x":{"dtype":"F16","shape":[' + shape + b'],"data_offsets":[0,2]}}'
        header = raw[8 : 8 + length].rstrip()[:-1] + more
        (model / SINGLE).write_bytes(file_of(header, raw[8 + length :]))
        assert SINGLE in refused(model)


@pytest.mark.parametrize("tensors", [70_000, 1_000_000])
def test_a_million_empty_tensors_are_not_looked_at(tensors: int, model: Path) -> None:
    empty = b'{"dtype":"F16","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(b'"%d":%s' % (n, empty) for n in range(tensors)) + b"}"
    (model / SINGLE).write_bytes(file_of(header))
    assert "allowed are" in refused(model)


def test_an_index_of_many_files_opens_none_of_them(model: Path) -> None:
    (model / SINGLE).unlink()
    shards = {f"t{n}": f"model-{n:05d}.safetensors" for n in range(60_000)}
    (model / INDEX).write_text(json.dumps({"weight_map": shards}))
    assert "60000 files" in refused(model)


def test_an_index_of_many_tensors_in_missing_files_is_told_in_time(model: Path) -> None:
    (model / SINGLE).unlink()
    shards = {f"t{n}": f"model-{n % 4000:05d}.safetensors" for n in range(60_000)}
    (model / INDEX).write_text(json.dumps({"weight_map": shards}))
    assert "and " in refused(model)


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", SINGLE, INDEX, "tokenizer.json", "tokenizer_config.json", "anything"],
)
def test_a_pipe_in_the_place_of_any_file_is_refused(name: str, model: Path) -> None:
    if name == INDEX:
        (model / SINGLE).unlink()
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    refused(model)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", INDEX])
def test_a_huge_file_is_refused_unread(name: str, model: Path) -> None:
    if name == INDEX:
        (model / SINGLE).unlink()
    with (model / name).open("wb") as file:  # a sparse file
        file.truncate(1 << 40)
    assert "bytes" in refused(model)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"9" * 4000 + b",)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"2, " * 2000 + b")}",
        b"{[]: 1}",
        b"{'descr': [('a', '<f4'), 1], 'fortran_order': False, 'shape': (1,)}",
        b"(" * 5000,
        b"\xff\xfe",
        b"",
    ],
)
def test_a_hostile_array_header_is_a_value_error_in_time(header: bytes, tmp_path: Path) -> None:
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "x.npy").write_bytes(raw + bytes(16))
    began = time.process_time()
    with pytest.raises(ValueError, match=r"\w"):
        read_npy(tmp_path / "x.npy")
    assert time.process_time() - began < SLOWEST_S


def test_a_whole_model_is_still_taken(model: Path) -> None:
    open_checkpoint(model, read_model(model)[0])
