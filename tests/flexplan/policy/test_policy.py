"""The policy: 17 fields, strict at the door; whatever is refused is refused with a field and an allowed value."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexplan.errors import PolicyError
from flexplan.policy import CompressionConfig, Policy, field_names
from flexplan.testing import policy_with

FIELDS = [
    *("gpu_batch_size", "num_gpu_batches"),
    *("w_gpu_percent", "w_cpu_percent", "cache_gpu_percent", "cache_cpu_percent", "act_gpu_percent", "act_cpu_percent"),
    *("overlap", "sep_layer", "pin_weight", "cpu_cache_compute", "attn_sparsity"),
    *("compress_weight", "comp_weight_config", "compress_cache", "comp_cache_config"),
    *(
        "cache_stream_percent",
        "admit_tokens",
        "room_percent",
        "experts_on_demand",
    ),  # ours; the others are the reference's, in its order
]


def refused(text: str | bytes) -> PolicyError:
    with pytest.raises(PolicyError) as refusal:
        Policy.from_json(text)
    assert refusal.value.exit_code == 2
    assert refusal.value.fix
    return refusal.value


def edited(**fields: Any) -> str:
    return json.dumps({**Policy().to_dict(), **fields})


# -- the vocabulary ---------------------------------------------------------------------------------------------
def test_the_fields_and_their_order_are_public() -> None:
    assert list(field_names()) == FIELDS


def test_the_first_eight_may_be_given_by_position() -> None:
    policy = policy_with(32, 8, w=(10, 20), cache=(30, 40), act=(50, 25))
    assert (policy.w_disk_percent, policy.cache_disk_percent, policy.act_disk_percent) == (70, 30, 25)
    assert policy.block_size == 256
    assert policy.shares("w") == (0.1, 0.2, 0.7)


def test_the_two_compressions_group_along_their_own_dimension() -> None:
    policy = Policy()
    assert (policy.comp_weight_config.group_dim, policy.comp_cache_config.group_dim) == (0, 2)
    assert not policy.compress_weight
    assert not policy.compress_cache


def test_a_policy_is_a_value() -> None:
    assert Policy(2) == replace(Policy(), gpu_batch_size=2)
    assert hash(Policy(2)) == hash(Policy(2))
    with pytest.raises(AttributeError):
        Policy().overlap = False  # type: ignore[misc]


# -- strictness -------------------------------------------------------------------------------------------------
WRONG: list[Any] = [None, "50", "", True, False, [50], {}, -0.001, -1, 100.0000001, 101, 1e308, "NaN", "50%"]


OF_A_MEAN = "room_percent"  # may be more than all of it


@pytest.mark.parametrize("field", [name for name in FIELDS if name.endswith("percent")])
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_percent_is_a_number_from_0_to_100(field: str, value: Any) -> None:
    if field == OF_A_MEAN and value in (100.0000001, 101):
        value *= 100
    error = refused(edited(**{field: value}))
    assert error.code in {"FP201", "FP202"}
    assert field in error.message


@pytest.mark.parametrize("field", ["gpu_batch_size", "num_gpu_batches"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "4", True, None, 1e3])
def test_a_size_is_a_whole_number_above_0(field: str, value: Any) -> None:
    assert field in refused(edited(**{field: value})).message


@pytest.mark.parametrize("field", ["overlap", "sep_layer", "pin_weight", "cpu_cache_compute", "compress_weight"])
@pytest.mark.parametrize("value", [0, 1, "true", "yes", None, 0.0])
def test_a_switch_is_true_or_false(field: str, value: Any) -> None:
    if (field, value) == ("sep_layer", None):  # as the model has it
        assert Policy.from_json(edited(sep_layer=None)).sep_layer is Policy().sep_layer is None
        return
    assert field in refused(edited(**{field: value})).message


@pytest.mark.parametrize("value", [0, 0.0, -0.1, 1.0001, 2])
def test_sparsity_says_which_way_round_it_is(value: float) -> None:
    error = refused(edited(attn_sparsity=value))
    assert error.code == "FP203"
    assert "1.0 is dense" in error.fix


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"num_bits": 1}, "num_bits"),
        ({"num_bits": 4.0}, "num_bits"),
        ({"group_size": 0}, "group_size"),
        ({"group_dim": 3}, "group_dim"),
        ({"symmetric": 1}, "symmetric"),
        ({"bits": 4}, "bits"),
        ("4 bits", "comp_weight_config"),
    ],
)
def test_a_compression_is_as_strict(config: Any, field: str) -> None:
    assert field in refused(edited(comp_weight_config=config)).message


@pytest.mark.parametrize("what", ["w", "cache", "act"])
def test_two_shares_may_not_exceed_the_whole(what: str) -> None:
    error = refused(edited(**{f"{what}_gpu_percent": 60, f"{what}_cpu_percent": 41}))
    assert error.code == "FP202"
    assert "60 + " in error.message
    assert "= 101" in error.message


def test_shares_from_a_solver_may_miss_the_whole_by_rounding() -> None:
    policy = policy_with(1, 1, w=(33.3, 100 - 33.3 + 1e-10))
    assert policy.w_disk_percent == 0.0


def test_an_unknown_field_suggests_the_one_that_was_meant() -> None:
    error = refused(edited(w_gpu_precent=50))
    assert error.code == "FP207"
    assert error.fix == "did you mean w_gpu_percent?"


@pytest.mark.parametrize(
    "text",
    [
        '{"overlap": true, "overlap": true}',
        '{"comp_weight_config": {"num_bits": 4, "num_bits": 8}}',
        '{"w_gpu_percent": NaN}',
        '{"w_gpu_percent": Infinity}',
        '{"w_gpu_percent": -Infinity}',
        '{"w_gpu_percent": 1e999}',
        "[1, 2]",
        '"policy"',
        "null",
        "",
        "{",
        "\ufeff{}",
        "{} {}",
        '{"overlap": tru}',
        "{'overlap': true}",
        "[" * 100_000,
        '{"a":' * 100_000,
        " " * (1 << 21),
        '{"version": 2}',
        '{"version": 0}',
        '{"version": "1"}',
        '{"version": true}',
        '{"version": null}',
        '{"gpu_batch_size": ' + "9" * 5000 + "}",
    ],
    ids=range(24),
)
def test_a_file_that_is_not_one_plain_object_of_this_version_is_refused(text: str) -> None:
    start = time.process_time()
    refused(text)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("text", [b"\xff\xfe{}", b"\x80", b'{"overlap": "\xe9"}'])
def test_bytes_that_are_not_utf_8_are_refused(text: bytes) -> None:
    assert refused(text).code == "FP205"


def test_python_is_refused_as_files_are() -> None:
    for wrong in ({"w_gpu_percent": "50"}, {"overlap": 1}, {"w_gpu_percent": float("nan")}, {"gpu_batch_size": 2.0}):
        with pytest.raises(PolicyError):
            Policy(**wrong)
    with pytest.raises(PolicyError):
        CompressionConfig(num_bits=9)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*FIELDS, "version", "x"]), json_values, max_size=4))
def test_anything_else_is_a_policy_or_a_policy_error(fields: dict[str, Any]) -> None:
    text = json.dumps({**Policy().to_dict(), **fields})
    try:
        policy = Policy.from_json(text)
    except PolicyError:
        return
    for what in ("w", "cache", "act"):
        assert sum(policy.shares(what)) == pytest.approx(1)
    assert Policy.from_json(policy.to_json()) == policy


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.binary(max_size=40))
def test_noise_is_a_policy_error(text: str | bytes) -> None:
    try:
        Policy.from_json(text)
    except PolicyError:
        return
    assert json.loads(text) == {}


# -- round trips ------------------------------------------------------------------------------------------------
percents = st.floats(0, 50, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 512), st.integers(1, 512), *[percents] * 6, st.booleans(), st.floats(0.001, 1))
def test_json_reads_back_to_the_bit(
    batch: int, batches: int, a: float, b: float, c: float, d: float, e: float, f: float, switch: bool, sparsity: float
) -> None:
    d = 100 - c if sparsity < 1 else d  # sparse attention reads nothing from disk
    policy = policy_with(
        batch,
        batches,
        w=(a, b),
        cache=(c, d),
        act=(e, f),
        overlap=switch,
        compress_cache=not switch,
        attn_sparsity=sparsity,
    )
    assert Policy.from_json(policy.to_json()) == policy
    assert Policy.from_dict(policy.to_dict()) == policy


def test_missing_fields_have_their_defaults() -> None:
    assert Policy.from_json("{}") == Policy()
    assert Policy.from_json('{"w_gpu_percent": 50, "w_cpu_percent": 50}') == Policy(w_gpu_percent=50, w_cpu_percent=50)
