"""Penalties: logits as the rules of a row, its model's and its own, change them before a token is chosen.

Tensor shapes: B rows, V vocabulary, T tokens so far, n sequences; R is 1 where all rows have one rule, else B.
The order is transformers', and so is what padding counts for: rules of sequences and lengths see it where the caller
gave it, the repetition penalty does not.  A row never sees what a micro-batch pads it with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from flexplan.model import Ids, TokenRules


class Given(NamedTuple):
    """A row as its caller gave it: ``lead`` is the padding before its first token."""

    ids: Sequence[int]
    lead: int = 0


@dataclass(frozen=True, slots=True)
class Past:
    """What rows hold when a token is chosen, ``step`` new ones included."""

    ids_BT: Tensor  # a row that is shorter than others begins with its first token, over and over
    own_BT: Tensor  # the same where padding of the caller is its first token, too
    first_B1: Tensor  # where the row begins, that padding included
    step: int


Change = Callable[[Tensor, Past], Tensor]


class Penalties:
    """The rules of a micro-batch and the history that they look at, on the device where logits are."""

    def __init__(
        self,
        rules: Sequence[TokenRules],
        ends: Ids,
        given: Sequence[Given],
        most: Sequence[int],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        widths = [len(row.ids) for row in given]
        self._width = max(widths)
        self._ids_BT = torch.zeros(len(given), self._width + max(most), dtype=torch.int64)
        self._own_BT = self._ids_BT.clone()
        for n, (ids, lead) in enumerate(given):
            for history, first in ((self._ids_BT, 0), (self._own_BT, lead)):
                history[n] = ids[first]  # a token that was there counts once, however often it was
                history[n, self._width - len(ids) + first : self._width] = torch.tensor(ids[first:])
        # what a mask hides may be no token
        self._ids_BT, self._own_BT = (ids.clamp(0, vocab_size - 1).to(device) for ids in (self._ids_BT, self._own_BT))
        self._first_B1 = (self._width - torch.tensor(widths))[:, None].to(device)
        rows = _Rows(rules, ends, widths, most, vocab_size, device)
        self._changes = tuple(_changes(rows))
        self._strict_B1 = torch.tensor([[not rule.remove_invalid_values] for rule in rules]).to(device)

    def __call__(self, logits_BV: Tensor, step: int) -> Tensor:
        """The logits from which the token of this step is chosen, in float32; what is no number stays none."""
        scores_BV = logits_BV.float()
        total = self._width + step
        past = Past(self._ids_BT[:, :total], self._own_BT[:, :total], self._first_B1, step)
        broken_B1 = ~scores_BV.amax(-1, keepdim=True).isfinite() & self._strict_B1
        for change in self._changes:
            scores_BV = change(scores_BV, past)
        scores_BV = scores_BV.clamp(max=torch.finfo(scores_BV.dtype).max)  # what a rule made too large is chosen, too
        return scores_BV.masked_fill(broken_B1, torch.nan)

    def note(self, chosen_B: Tensor, step: int) -> None:
        """Remember the tokens of a step; those of one that nobody wants, behind a batch's last, are not."""
        if self._width + step >= self._ids_BT.shape[1]:
            return
        for history_BT in (self._ids_BT, self._own_BT):
            history_BT[:, self._width + step] = chosen_B.clamp(min=0)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rules of some rows as tensors of one value a row, or of one for all where they are alike."""

    rules: Sequence[TokenRules]
    ends: Ids
    widths: Sequence[int]
    most: Sequence[int]  # new tokens
    vocab_size: int
    device: torch.device

    def each(
        self, value: Callable[[TokenRules, int], float | None], otherwise: float, dtype: torch.dtype | None = None
    ) -> Tensor | None:
        """(R, 1): a value of each row by its rules and width; None where no row has one."""
        return self.column([value(*one) for one in zip(self.rules, self.widths, strict=True)], otherwise, dtype)

    def column(
        self, found: Sequence[float | None], otherwise: float, dtype: torch.dtype | None = None
    ) -> Tensor | None:
        """(R, 1): these values; None where there is none."""
        if all(v is None for v in found):
            return None
        values = [otherwise if v is None else v for v in found]
        if len(set(values)) == 1:
            values = values[:1]
        return torch.tensor(values, dtype=dtype, device=self.device)[:, None]

    def marks(self, tokens: Callable[[TokenRules], Ids]) -> Tensor | None:
        """(R, V): the tokens that a rule names; None where no row's names any."""
        found = [tokens(rule) for rule in self.rules]
        if not any(found):
            return None
        marked = torch.zeros(1 if len(set(found)) == 1 else len(found), self.vocab_size, dtype=torch.bool)
        for row, ids in zip(marked, found, strict=False):
            row[list(ids)] = True
        return marked.to(self.device)

    @property
    def end_marks(self) -> Tensor:
        """(1, V): the tokens that end a row."""
        marked = torch.zeros(1, self.vocab_size, dtype=torch.bool)
        marked[0, [end for end in self.ends if end < self.vocab_size]] = True
        return marked.to(self.device)


def _changes(rows: _Rows) -> Iterator[Change]:
    """What is asked for, in transformers' order; penalties that it does not have stand behind its own."""
    yield from _sequences(rows, lambda rule: dict(rule.sequence_bias))
    penalty = rows.each(lambda rule, _: rule.repetition_penalty if rule.repetition_penalty != 1 else None, 1.0)
    if penalty is not None:
        yield partial(_repeated, penalty)
    frequency = rows.each(lambda rule, _: rule.frequency_penalty or None, 0.0)
    presence = rows.each(lambda rule, _: rule.presence_penalty or None, 0.0)
    if frequency is not None or presence is not None:
        nothing = torch.zeros(1, 1, device=rows.device)
        yield partial(_counted, nothing if frequency is None else frequency, nothing if presence is None else presence)
    sizes = rows.each(lambda rule, _: rule.no_repeat_ngram_size, 0)
    for size in sorted({rule.no_repeat_ngram_size for rule in rows.rules} - {0}):
        yield partial(_ngrams, size, sizes == size)
    yield from _sequences(rows, lambda rule: _bad_words(rule, rows.ends))
    least = rows.each(lambda rule, width: _least(rule, width) or None, 0)
    if least is not None:
        yield partial(_until, rows.end_marks, least)
    yield from _forced(rows)
    mended = rows.each(lambda rule, _: rule.remove_invalid_values or None, False)
    if mended is not None:
        yield partial(_mended, mended)
    begin = rows.each(lambda rule, _: (rule.exponential_decay_length_penalty or (None,))[0], 1 << 60)
    factor = rows.each(lambda rule, _: (rule.exponential_decay_length_penalty or (0, None))[1], 1.0, torch.float64)
    if begin is not None and factor is not None:
        yield partial(_eager, rows.end_marks, begin, factor)
    if (marks := rows.marks(lambda rule: rule.suppress_tokens)) is not None:
        yield partial(_never, marks)
    if (marks := rows.marks(lambda rule: rule.begin_suppress_tokens)) is not None:
        # a first token that is forced is not the one that the text begins with
        first = rows.each(lambda rule, width: int(width == 1 and rule.forced_bos_token_id is not None), 0)
        yield partial(_at, marks, first)


def _least(rule: TokenRules, width: int) -> int:
    """New tokens before a row may end."""
    return max(0, rule.min_length - width) if rule.min_new_tokens is None else rule.min_new_tokens


def _bad_words(rule: TokenRules, ends: Ids) -> dict[Ids, float]:
    """Sequences that never come about; an end token is not a bad word."""
    return {word: -torch.inf for word in rule.bad_words_ids if not (len(word) == 1 and word[0] in ends)}


def _forced(rows: _Rows) -> Iterator[Change]:
    bos = rows.marks(lambda rule: () if rule.forced_bos_token_id is None else (rule.forced_bos_token_id,))
    if bos is not None:
        yield partial(_only, bos, rows.each(lambda rule, width: 0 if width == 1 else -1, -1))
    eos = rows.marks(lambda rule: rule.forced_eos_token_id)
    if eos is not None:
        yield partial(_only, eos, rows.column([most - 1 for most in rows.most], -1))


def _sequences(rows: _Rows, of: Callable[[TokenRules], dict[Ids, float]]) -> Iterator[Change]:
    """Biases of whole sequences: one change for all of one length."""
    found = [of(rule) for rule in rows.rules]
    alike = all(biases == found[0] for biases in found)
    words = sorted({word for biases in found for word in biases}, key=lambda word: (len(word), word))
    for length in sorted(set(map(len, words))):
        here = [word for word in words if len(word) == length]
        biases_Rn = torch.tensor([[biases.get(word, 0.0) for word in here] for biases in found[: 1 if alike else None]])
        before_nT = torch.tensor([word[:-1] for word in here], dtype=torch.int64).view(len(here), length - 1)
        last_n = torch.tensor([word[-1] for word in here])
        yield partial(_biased, before_nT.to(rows.device), last_n.to(rows.device), biases_Rn.to(rows.device))


# -- the changes themselves ----------------------------------------------------------------------------------------
def _biased(before_nT: Tensor, last_n: Tensor, biases_Rn: Tensor, scores_BV: Tensor, past: Past) -> Tensor:
    """Bias the token that would complete a sequence."""
    length, total = before_nT.shape[1], past.ids_BT.shape[1]
    if length > total:
        return scores_BV
    ending_BT = past.ids_BT[:, total - length :]
    met_Bn = (ending_BT[:, None] == before_nT).all(-1) & (total - length >= past.first_B1)
    bias_BV = torch.zeros_like(scores_BV).index_add_(1, last_n, torch.where(met_Bn, biases_Rn, 0.0))
    return scores_BV + bias_BV


def _repeated(penalty_R1: Tensor, scores_BV: Tensor, past: Past) -> Tensor:
    """Every token that was there is less likely, once."""
    found_BT = scores_BV.gather(1, past.own_BT)
    return scores_BV.scatter(1, past.own_BT, torch.where(found_BT < 0, found_BT * penalty_R1, found_BT / penalty_R1))


def _counted(frequency_R1: Tensor, presence_R1: Tensor, scores_BV: Tensor, past: Past) -> Tensor:
    """Every new token is less likely, by how often it came and because it did; those of the prompt are not."""
    total = past.ids_BT.shape[1]
    new_BT = past.ids_BT[:, total - past.step :]
    counts_BV = torch.zeros_like(scores_BV).scatter_add_(1, new_BT, torch.ones_like(new_BT, dtype=scores_BV.dtype))
    return scores_BV - frequency_R1 * counts_BV - presence_R1 * (counts_BV > 0)


def _ngrams(size: int, held_R1: Tensor, scores_BV: Tensor, past: Past) -> Tensor:
    """No run of ``size`` tokens comes twice."""
    total = past.ids_BT.shape[1]
    if total < size:
        return scores_BV
    windows_BTn = past.ids_BT.unfold(1, size, 1)
    ending_Bn = past.ids_BT[:, total + 1 - size :]
    places_T = torch.arange(total + 1 - size, device=scores_BV.device)
    again_BT = (windows_BTn[..., :-1] == ending_Bn[:, None]).all(-1) & (places_T >= past.first_B1) & held_R1
    counts_BV = torch.zeros_like(scores_BV).scatter_add_(1, windows_BTn[..., -1], again_BT.to(scores_BV.dtype))
    return scores_BV.masked_fill(counts_BV > 0, -torch.inf)


def _until(ends_1V: Tensor, least_R1: Tensor, scores_BV: Tensor, past: Past) -> Tensor:
    """No end before so many new tokens."""
    return scores_BV.masked_fill(ends_1V & (past.step < least_R1), -torch.inf)


def _only(marks_RV: Tensor, step_R1: Tensor, scores_BV: Tensor, past: Past) -> Tensor:
    """At this step these tokens alone, all alike."""
    forced_RV = torch.where(marks_RV, 0.0, -torch.inf)
    return torch.where((past.step == step_R1) & marks_RV.any(-1, keepdim=True), forced_RV, scores_BV)


def _mended(held_R1: Tensor, scores_BV: Tensor, past: Past) -> Tensor:
    """Numbers instead of what is none."""
    return torch.where(held_R1, scores_BV.nan_to_num(0.0), scores_BV)


def _eager(ends_1V: Tensor, begin_R1: Tensor, factor_R1: Tensor, scores_BV: Tensor, past: Past) -> Tensor:
    """From a step on an end becomes likelier with each token."""
    over_R1 = (past.step - begin_R1).clamp(min=0)
    extra_BV = (scores_BV.abs() * (factor_R1**over_R1 - 1).float()).masked_fill(~scores_BV.isfinite(), 0.0)
    return scores_BV + extra_BV.masked_fill(~ends_1V, 0.0)


def _never(marks_RV: Tensor, scores_BV: Tensor, past: Past) -> Tensor:
    return scores_BV.masked_fill(marks_RV, -torch.inf)


def _at(marks_RV: Tensor, step_R1: Tensor, scores_BV: Tensor, past: Past) -> Tensor:
    return scores_BV.masked_fill(marks_RV & (past.step == step_R1), -torch.inf)
