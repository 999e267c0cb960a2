"""`OffloadedLM.score`: the log-probabilities of transformers, whatever the policy; what cannot be scored is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flexplan_runtime.execute.choosing import scoring
from flexplan_runtime.generate import OffloadedLM
from policies import covering, opened, random_prompts
from tiny_models import CONFIGS, saved
from transformers import PreTrainedModel

from flexplan.errors import NoNumbers, PromptError
from flexplan.policy import Policy

SEQUENCES = [row for row in random_prompts(99, 12) if len(row) > 1]
SEQUENCES += [[*SEQUENCES[3][:-1], token] for token in (7, 8)]  # answers of one token to one question
STARTS = [max(1, len(row) - 1 - n % 4) for n, row in enumerate(SEQUENCES)]
CASES = covering(12, seed=22, gen_len=(1,), gpu_batch_size=(1, 2, 3), num_gpu_batches=(1, 2, 3))


@torch.no_grad()
def expected(model: PreTrainedModel, sequence: list[int], start: int) -> tuple[list[float], list[bool]]:
    """By all logits at once."""
    ids = torch.tensor([sequence])
    found = model(ids[:, :-1]).logits.log_softmax(-1)[0, start - 1 :]
    wanted = ids[0, start:]
    return found.gather(-1, wanted[:, None])[:, 0].tolist(), (found.argmax(-1) == wanted).tolist()


@pytest.mark.parametrize("family", ["opt post-norm, projected", "llama", "mixtral"])
def test_figures_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    model = saved(CONFIGS[family], tmp_path / "model")
    wanted = [expected(model, row, start) for row, start in zip(SEQUENCES, STARTS, strict=True)]
    for n, case in enumerate(CASES[:: 1 if family == "llama" else 4]):
        with opened(tmp_path / "model", case.policy, tmp_path / str(n), schedule=case.schedule) as lm:
            scores = lm.score(SEQUENCES, STARTS)
        assert [score.index for score in scores] == list(range(len(SEQUENCES)))
        for score, (logprobs, likeliest) in zip(scores, wanted, strict=True):
            assert score.logprobs == pytest.approx(logprobs, abs=2e-5), str(case)
            assert score.likeliest == tuple(likeliest)


def test_one_position_at_a_time_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And equal prompts are run once: two rows for what thirteen sequences ask."""
    saved(CONFIGS["llama"], tmp_path / "model")
    asked = [[*SEQUENCES[0], token] for token in range(12)] + [SEQUENCES[1]]
    rows: list[int] = []
    with opened(tmp_path / "model", Policy(2, 2), tmp_path) as lm:
        whole = lm.score(asked, progress=lambda done, _: rows.append(done))
        monkeypatch.setattr(scoring, "_FLOAT_BYTES", 1 << 40)  # so that no workspace holds two
        for one, other in zip(lm.score(asked), whole, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert sum(torch.tensor([score.logprobs[-1] for score in whole[:12]]).exp()) < 1
    assert rows[-1] == 2


def test_a_generation_goes_between_two_scorings(tmp_path: Path) -> None:
    """Of blocks of the same shape, which take over from each other."""
    saved(CONFIGS["llama"], tmp_path / "model")
    prompts = [row[:-1] for row in SEQUENCES[:4]]
    with opened(tmp_path / "model", Policy(2, 2), tmp_path) as lm:
        first, tokens = lm.score(SEQUENCES[:4]), lm.complete(prompts, 1).tokens
        assert lm.score(SEQUENCES[:4]) == first
        said = lm.score([[*prompt, token] for prompt, (token,) in zip(prompts, tokens, strict=True)])
        assert all(score.likeliest[-1] for score in said)


def test_stopping_leaves_the_blocks_out_that_have_not_begun(tmp_path: Path) -> None:
    saved(CONFIGS["opt"], tmp_path / "model")
    with opened(tmp_path / "model", Policy(1, 2), tmp_path) as lm:
        asked = iter([False, True, True, True])
        assert {score.index for score in lm.stream_scores(SEQUENCES[:6], stopping=asked.__next__)} == {0, 1}


@pytest.mark.parametrize(
    ("sequences", "starts", "code", "says"),
    [
        ([[1, 2], [3]], None, "FP331", "sequence 1 has 1 tokens"),
        ([[1, 2]], [2], "FP331", "from token 2 on"),
        ([[1, 2]], [0], "FP331", "from token 0 on"),
        ([[1, 2]], [1, 1], "FP330", "2 starts for 1 sequences"),
        ([[1, 200]], None, "FP305", "token id 200"),
        ([[200, 1]], None, "FP305", "sequence 0, less its last token,"),
        ([list(range(42))], None, "FP304", "sequence 0, less its last token, has 41 tokens"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(
    sequences: list[list[int]], starts: list[int] | None, code: str, says: str, lm: OffloadedLM
) -> None:
    with pytest.raises(PromptError, match=says) as raised:
        lm.score(sequences, starts)
    assert raised.value.code == code


def test_what_is_no_number_is_named(tmp_path: Path) -> None:
    """One damaged row of the token table; the sequences that hold the token are named, others have figures."""
    model = saved(CONFIGS["llama"], tmp_path / "ok")
    model.model.embed_tokens.weight.data[5] = torch.nan
    model.save_pretrained(tmp_path / "model")
    with opened(tmp_path / "model", Policy(2, 1), tmp_path) as lm:
        found = {score.index: score.broken for score in lm.stream_scores([[9, 8, 7], [9, 5, 7], [9, 7, 5]])}
        assert found == {0: False, 1: True, 2: False}
        with pytest.raises(NoNumbers, match="logits of sequences 1 are NaN"):
            lm.score([[9, 8, 7], [9, 5, 7]])


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory):
    place = tmp_path_factory.mktemp("model")
    saved(CONFIGS["opt"], place / "model")
    with opened(place / "model", Policy(2, 2), place) as found:
        yield found
