"""Model directories with anything in them: they open, or an error of ours says what is wrong, at once.

Seeded; FLEXPLAN_FUZZ is the number of cases of each test.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flexplan_runtime.generate import Tokenizer
from flexplan_runtime.weights import open_model, resolve_model
from safetensors.torch import load_file, save_file

from flexplan.errors import FlexplanError
from flexplan.model import read_model
from flexplan.model.stored import INDEX, SINGLE

CASES = int(os.environ.get("FLEXPLAN_FUZZ", "40"))
SLOWEST_S = 1.0  # of a case, in seconds of the processor
VALUES: list[Any] = [
    *(0, 1, -1, 2, 7, 199, 10**5, 2**31, 2**63, 10**30, int("9" * 400)),
    *(0.5, -0.0, 1e-320, 1e-40, 1e30, 1e308, float("nan"), float("inf")),
    *("", "float16", "F32", "self", "9" * 400, "x" * 5000, "\x1b[31m", "é中", "a\0b", "/dev/zero", "../x", "\ud800"),
    *(None, True, False, [], {}, [[]], [1, 2, 3], [-1, -1], {"": {}}, {"dtype": "F16"}, [0] * 2000),
]
BYTES = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 20_000, b'{"a":' * 2000, b"GGUF\3", b"version https://git-lfs"]


def mutated(rng: random.Random, given: Any) -> Any:
    """The same plain data with one to three of its values replaced, left out, renamed or doubled."""
    changed = json.loads(json.dumps(given))
    for _ in range(rng.randint(1, 3)):
        place = changed
        while place:
            key = rng.choice(list(place) if isinstance(place, dict) else list(range(len(place))))
            if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
                place = place[key]
                continue
            change(rng, place, key)
            break
    return changed


def change(rng: random.Random, place: Any, key: Any) -> None:
    how, value = rng.random(), place[key]
    if how < 0.3 and type(value) in (int, float):
        place[key] = rng.choice([value + 1, value - 1, -value, value * 2, value * 10**6, value // 3])
    elif how < 0.8:
        place[key] = copy.deepcopy(rng.choice(VALUES))
    elif how < 0.9:
        del place[key]
    elif isinstance(place, dict):
        place[str(rng.choice(VALUES))[:200]] = value
    else:
        place.append(value)


def garbled(rng: random.Random, raw: bytes) -> bytes:
    """At times other bytes, or fewer."""
    how, other = rng.random(), bytearray(raw)
    if how < 0.05:
        return rng.choice(BYTES)
    if how < 0.2 and other:
        for _ in range(rng.randint(1, 4)):
            other[rng.randrange(len(other))] = rng.randrange(256)
    if 0.2 < how < 0.25 and other:
        del other[rng.randrange(len(other)) :]
    return bytes(other)


def opened(model: Path) -> None:
    """A directory, as `solve` and `run` open it: an error is one of ours, is no bug, and comes at once."""
    began = time.process_time()
    with warnings.catch_warnings(), contextlib.suppress(FlexplanError):
        warnings.simplefilter("ignore")
        try:
            read_model(model)
            open_model(model, resolve_model(model), 0)
        except FlexplanError as error:
            assert error.code != "FP001", error
            assert error.fix, error
            assert len(str(error)) < 20_000
            raise
    assert time.process_time() - began < SLOWEST_S


@pytest.fixture(scope="module")
def whole(tiny_opt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model."""
    place = tmp_path_factory.mktemp("whole") / "model"
    shutil.copytree(tiny_opt, place, copy_function=shutil.copyfile)
    opened(place)
    return place


@pytest.fixture(scope="module")
def sharded(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in three files and an index."""
    place = tmp_path_factory.mktemp("sharded") / "model"
    shutil.copytree(whole, place)
    tensors = load_file(place / SINGLE)
    (place / SINGLE).unlink()
    held = {name: f"model-{n % 3}.safetensors" for n, name in enumerate(tensors)}
    for file in set(held.values()):
        save_file({name: tensors[name] for name in tensors if held[name] == file}, place / file)
    (place / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": held}))
    return place


@pytest.fixture(scope="module")
def arrays(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as one array a file."""
    place = tmp_path_factory.mktemp("arrays") / "model"
    shutil.copytree(whole, place)
    for name, tensor in load_file(place / SINGLE).items():
        with (place / name.removeprefix("model.")).open("wb") as file:
            np.save(file, tensor.numpy())
    (place / SINGLE).unlink()
    return place


def each_case(model: Path, name: str, make: Callable[[random.Random], bytes]) -> None:
    """The directory with one of its files written anew, many times; the file is as it was afterwards."""
    file = model / name
    before = file.read_bytes() if file.exists() else None
    try:
        for seed in range(CASES):
            file.write_bytes(make(random.Random(seed)))
            opened(model)
    finally:
        file.unlink() if before is None else file.write_bytes(before)


def json_of(rng: random.Random, given: Any) -> bytes:
    return garbled(rng, json.dumps(mutated(rng, given)).encode())


LLAMA = {
    "model_type": "llama",
    "vocab_size": 199,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "sliding_window": 32,
    "layer_types": ["full_attention", "sliding_attention"],
    "torch_dtype": "float32",
    "tie_word_embeddings": False,
    "eos_token_id": [1, 2],
    "quantization_config": None,
}
GENERATION = {
    "eos_token_id": [2, 3],
    "pad_token_id": 1,
    "repetition_penalty": 1.1,
    "bad_words_ids": [[1, 2], [3]],
    "sequence_bias": [[[1, 2], 0.5]],
    "suppress_tokens": [5],
    "exponential_decay_length_penalty": [3, 1.5],
    "min_new_tokens": 2,
    "do_sample": True,
    "temperature": 0.5,
    "top_p": 0.9,
}


@pytest.mark.parametrize("family", ["opt", "llama", "mistral", "mixtral", "qwen2", "qwen3"])
def test_any_config(family: str, whole: Path) -> None:
    own = json.loads((whole / "config.json").read_text())
    given = own if family == "opt" else LLAMA | {"model_type": family}
    each_case(whole, "config.json", lambda rng: json_of(rng, given))


def test_any_generation_config(whole: Path) -> None:
    each_case(whole, "generation_config.json", lambda rng: json_of(rng, GENERATION))


def test_any_header(whole: Path) -> None:
    raw = (whole / SINGLE).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])

    def make(rng: random.Random) -> bytes:
        changed = json_of(rng, header)
        size = len(changed) if rng.random() < 0.9 else rng.choice([0, 1, 1 << 20, 1 << 40, (1 << 64) - 1])
        return size.to_bytes(8, "little") + changed + raw[8 + length :]

    each_case(whole, SINGLE, make)


def test_any_bytes_of_a_weights_file(whole: Path) -> None:
    raw = (whole / SINGLE).read_bytes()
    each_case(whole, SINGLE, lambda rng: garbled(rng, raw[: rng.randrange(4000)]))


def test_any_index(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    each_case(sharded, INDEX, lambda rng: json_of(rng, index))


def test_any_array(arrays: Path) -> None:
    name = "decoder.layers.0.fc1.weight"
    raw = (arrays / name).read_bytes()
    length = 10 + int.from_bytes(raw[8:10], "little")
    header = raw[10:length].decode()
    swaps = ["(", ")", "[", "{", "'", ",", "-", "9" * 50, "<f4", "|O", "True", "None", "shape", "\n", "1e9", "[]: 1,"]

    def make(rng: random.Random) -> bytes:
        text = header
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(swaps) + text[at + rng.randint(0, 6) :]
        return garbled(rng, raw[:8] + len(text).to_bytes(2, "little") + text.encode()) + raw[length:]

    each_case(arrays, name, make)


def test_any_tokenizer_config(whole: Path) -> None:
    own = json.loads((whole / "tokenizer_config.json").read_text())
    before = (whole / "tokenizer_config.json").read_bytes()
    Tokenizer(whole).decode([5, 6])  # whatever is imported late is imported now
    try:
        for seed in range(CASES):
            (whole / "tokenizer_config.json").write_bytes(json_of(random.Random(seed), own))
            began = time.process_time()
            with warnings.catch_warnings(), contextlib.suppress(FlexplanError):
                warnings.simplefilter("ignore")
                Tokenizer(whole).decode([5, 6])
            assert time.process_time() - began < SLOWEST_S
    finally:
        (whole / "tokenizer_config.json").write_bytes(before)
