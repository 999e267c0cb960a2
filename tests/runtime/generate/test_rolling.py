"""The rolling schedule: whoever sits where, each request gets the tokens that the block schedule gives it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import finalize

import pytest
from flexplan_runtime import ExecutionEnv
from flexplan_runtime.execute import Sampling
from flexplan_runtime.generate import Done, OffloadedLM, Request
from flexplan_runtime.generate.requests import Rows
from policies import opened
from tiny_models import CONFIGS, saved

from flexplan.errors import PolicyError
from flexplan.policy import Policy
from flexplan.problem import Workload, expectation_of
from flexplan.simulation import boardings_of
from flexplan.testing import policy_with

PROMPTS = [
    [9, 40, 77],
    [3, 8, 61, 4, 90],
    [50, 51],
    [7, 8, 7, 8, 9, 1, 2],
    [13],
    [5, 6],
    [80, 81, 82],
    [17] * 9,
    [33, 2],
]
MOST = [3, 1, 7, 2, 9, 5, 1, 4, 6]
POLICIES = {
    "all on the gpu": Policy(2, 2),
    "one seat": Policy(1, 1, sep_layer=False),
    "one seat each": policy_with(1, 3, w=(50, 50)),
    "on the host": policy_with(2, 2, w=(0, 100), cache=(0, 100), cpu_cache_compute=True),
    "between": policy_with(3, 2, w=(30, 40), cache=(40, 60), cpu_cache_compute=True, sep_layer=False),
    "a head here, a head there": policy_with(1, 2, w=(0, 100), cache=(50, 50), cpu_cache_compute=True),
    "no overlap": policy_with(2, 3, w=(0, 50), cache=(20, 80), overlap=False, cpu_cache_compute=True),
    "not pinned": policy_with(2, 2, w=(20, 60), pin_weight=False),
    "few come in": policy_with(2, 3, w=(0, 100), cache=(50, 50), cpu_cache_compute=True, admit_tokens=6),
    "seats are outgrown": policy_with(2, 2, w=(0, 100), cache=(50, 50), cpu_cache_compute=True, room_percent=30),
    "outgrown on the host": policy_with(
        3, 3, w=(50, 50), cache=(0, 100), cpu_cache_compute=True, sep_layer=False, room_percent=20
    ),
    "outgrown without overlap": policy_with(
        3, 3, w=(0, 50), cache=(40, 60), overlap=False, cpu_cache_compute=True, room_percent=20
    ),
    "outgrown by every token": Policy(2, 3, sep_layer=False, room_percent=1),
    "4-bit weights": policy_with(2, 2, w=(50.0, 50.0), compress_weight=True),
}
MODELS = ("llama", "opt untied", "qwen3", "mixtral")


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("model") / "model"
    saved(CONFIGS[request.param], place)
    return place


@pytest.mark.parametrize("name", POLICIES)
def test_every_request_gets_the_tokens_of_the_block_schedule(name: str, model: Path, tmp_path: Path) -> None:
    policy = POLICIES[name]
    with opened(model, policy, tmp_path) as lm:
        expected = lm.complete(PROMPTS, MOST).tokens
    with opened(model, policy, tmp_path, schedule="rolling") as lm:
        assert lm.complete(PROMPTS, MOST).tokens == expected
        assert lm.complete(PROMPTS[::-1], MOST[::-1]).tokens == expected[::-1], "a second job in the same model"


@pytest.fixture(params=["between", "seats are outgrown"])
def lm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OffloadedLM]:
    saved(CONFIGS["llama"], tmp_path / "model")
    with opened(tmp_path / "model", POLICIES[request.param], tmp_path, schedule="rolling") as found:
        yield found


def test_draws_depend_on_seed_request_and_step_alone(lm: OffloadedLM, tmp_path: Path) -> None:
    drawn = Sampling(do_sample=True, temperature=2.0, seed=5)
    with opened(tmp_path / "model", Policy(4, 1), tmp_path) as other:
        expected = other.complete(PROMPTS, MOST, sampling=drawn).tokens
    assert lm.complete(PROMPTS, MOST, sampling=drawn).tokens == expected


def test_a_stop_ends_a_request_and_its_seat_serves_another(lm: OffloadedLM) -> None:
    whole = lm.complete(PROMPTS, 8).tokens
    stop = whole[4][2]
    expected = [row[: row.index(stop) + 1] if stop in row else row for row in whole]
    ended = {one.index: one for one in lm.stream(PROMPTS, 8, stops=(stop,))}
    assert [list(ended[n].token_ids) for n in range(len(PROMPTS))] == expected
    assert ended[4].finish_reason == "stop"


def test_requests_come_as_they_end(lm: OffloadedLM) -> None:
    order = [one.index for one in lm.stream(PROMPTS, MOST)]
    assert sorted(order) == list(range(len(PROMPTS))) and order != sorted(order)


def test_seats_by_what_is_expected_give_the_same_tokens(tmp_path: Path) -> None:
    """Whatever answers were expected to be, and also where all are longer than that."""
    saved(CONFIGS["llama"], tmp_path / "model")
    with opened(tmp_path / "model", Policy(4, 3), tmp_path) as lm:
        whole = lm.complete(PROMPTS, 30).tokens
    stop = whole[2][12]
    expected = [row[: row.index(stop) + 1] if stop in row else row for row in whole]
    for seen, policy in (
        ([1], Policy(2, 2, room_percent=100)),
        ([3, 3, 40], policy_with(2, 2, w=(0, 100), cache=(0, 100), cpu_cache_compute=True, room_percent=50)),
        ([(1, 2), (9, 30)], Policy(1, 3, admit_tokens=5, room_percent=200)),
    ):
        likely = expectation_of(seen, 40)
        with opened(tmp_path / "model", policy, tmp_path, schedule="rolling", expected=likely) as lm:
            ended = [(one.index, list(one.token_ids)) for one in lm.stream(PROMPTS, 30, stops=(stop,))]
        assert sorted(ended) == list(enumerate(expected)), policy


def test_who_moves_takes_what_was_packed(tmp_path: Path) -> None:
    """Nobody steps back, so keys and values are those that were rounded once, and the tokens those of whole seats."""
    saved(CONFIGS["llama"], tmp_path / "model")
    found = []
    for room in (0.0, 20.0):
        policy = policy_with(
            3, 3, w=(0, 100), cache=(50, 50), cpu_cache_compute=True, compress_cache=True, room_percent=room
        )
        boardings = boardings_of(Workload(prompt_lens=tuple(map(len, PROMPTS)), gen_lens=tuple(MOST)), policy)
        newcomers = [guest for one in boardings for some in one.newcomers.values() for guest in some]
        assert any(one.moves for one in boardings) == bool(room) and not any(guest.had for guest in newcomers)
        with opened(tmp_path / "model", policy, tmp_path, schedule="rolling") as lm:
            found.append(lm.complete(PROMPTS, MOST).tokens)
    assert found[0] == found[1]


def test_packed_caches_step_back_and_lose_no_request(tmp_path: Path) -> None:
    """Keys and values are computed anew, not packed in between: tokens may differ, lengths may not."""
    saved(CONFIGS["llama"], tmp_path / "model")
    policy = policy_with(2, 2, cpu_cache_compute=True, compress_cache=True, room_percent=30)
    with opened(tmp_path / "model", policy, tmp_path, schedule="rolling") as lm:
        assert list(map(len, lm.complete(PROMPTS, MOST).tokens)) == MOST


def test_what_does_not_roll_is_refused_by_name(tmp_path: Path) -> None:
    saved(CONFIGS["llama"], tmp_path / "model")
    for policy, what in (
        (policy_with(2, 2, act=(0.0, 100.0)), "act_gpu_percent 0"),
        (policy_with(2, 2, cache=(50.0, 50.0)), "streams"),
        (policy_with(2, 2, cache=(50.0, 0.0), cpu_cache_compute=True), "cache_disk_percent 50"),
        (Policy(2, 2, attn_sparsity=0.5), "attn_sparsity 0.5"),
    ):
        rolling = opened(tmp_path / "model", policy, tmp_path, schedule="rolling")
        with rolling as lm, pytest.raises(PolicyError, match=what):
            lm.complete(PROMPTS, MOST)
    saved(CONFIGS["phi4, longrope"], tmp_path / "by length")
    stretched = opened(tmp_path / "by length", Policy(2, 2, room_percent=50), tmp_path, schedule="rolling")
    with stretched as lm, pytest.raises(PolicyError, match="room_percent 50 where positions turn"):
        lm.complete(PROMPTS, MOST)


@pytest.mark.gpu
@pytest.mark.parametrize("name", POLICIES)
def test_on_a_device(name: str, model: Path, tmp_path: Path) -> None:
    policy = POLICIES[name]
    with opened(model, Policy(4, 3), tmp_path) as lm:
        expected = lm.complete(PROMPTS * 3, MOST * 3).tokens
    env = ExecutionEnv.create(tmp_path, device="cuda", num_threads=2)
    with env as tiers, OffloadedLM(model, tiers, model, policy, schedule="rolling", dtype="float32") as lm:
        for _ in range(2):  # the second time by captured steps, where they were worth it
            found = lm.complete(PROMPTS * 3, MOST * 3).tokens
            if policy.compress_weight:
                assert list(map(len, found)) == MOST * 3
            else:
                assert found == expected


def test_requests_choose_each_in_its_own_way(lm: OffloadedLM, tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"sampling": Sampling(True, 2.0, seed=7), "logprobs": 2},
        {"sampling": Sampling(True, top_k=3, seed=1), "presence_penalty": 2.0},
        {"repetition_penalty": 1.6, "logprobs": 0},
        {"logit_bias": {5: 9.0}, "frequency_penalty": 1.0, "n": 2, "sampling": Sampling(True, 1.5, seed=2)},
    ]
    each = zip(PROMPTS, MOST, strict=True)
    requests = [Request(prompt, most, **ways[n % len(ways)]) for n, (prompt, most) in enumerate(each)]

    def by_answer(model: OffloadedLM) -> dict[tuple[int, int], Done]:
        return {(one.index, one.choice): one for one in model.stream(requests)}

    with opened(tmp_path / "model", Policy(4, 1), tmp_path) as other:
        expected = by_answer(other)
    found = by_answer(lm)
    assert found.keys() == expected.keys()
    for key, one in found.items():
        assert (one.token_ids, one.finish_reason) == (expected[key].token_ids, expected[key].finish_reason), key
        told, wanted = one.logprobs or (), expected[key].logprobs or ()
        assert [t.chosen for t in told] == pytest.approx([t.chosen for t in wanted], abs=1e-4)
        assert [[token for token, _ in t.top] for t in told] == [[token for token, _ in t.top] for t in wanted]


def test_of_a_long_job_only_the_rows_that_sit_are_in_memory(lm: OffloadedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many more requests than seats: neither their rows nor their tokens are kept, all at a time."""
    counts, real = Counter[str](), Rows._row

    class Tokens(list[int]):
        """A prompt that can be seen to go."""

    def counted(self: Rows, place: int, choice: int) -> Any:
        row = real(self, place, choice)
        tokens = Tokens(row.prompt)
        counts["alive"] += 1
        counts["most"] = max(counts["most"], counts["alive"])
        finalize(tokens, counts.subtract, ["alive"])
        return replace(row, prompt=tokens)

    expected = lm.complete(PROMPTS, MOST).tokens
    monkeypatch.setattr(Rows, "_row", counted)
    found = {one.index: list(one.token_ids) for one in lm.stream(PROMPTS * 15, MOST * 15)}
    assert [found[n] for n in range(len(found))] == expected * 15
    assert counts["most"] <= 4 * POLICIES["between"].block_size + 4 < len(found)
