"""Scores: how likely given tokens are; sequences that differ in their last token alone share a row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from flexplan.errors import NoNumbers, PromptError
from flexplan.model import ModelShape
from flexplan_runtime.execute import Likelihoods, Wanted
from flexplan_runtime.generate.prompts import refuse_bad_prompts, refuse_no_ids


@dataclass(frozen=True, slots=True)
class Score:
    """A sequence that has been scored: its place in the input, and of each token from its start on two figures.

    ``logprobs``: the natural logarithm of its probability after all tokens before it, in float32, of the logits as
    the model gives them: no temperature, no rule of its generation config.  ``likeliest``: is no token likelier?
    """

    index: int
    logprobs: tuple[float, ...]
    likeliest: tuple[bool, ...]

    @property
    def total(self) -> float:
        """The log-probability of all of them together."""
        return math.fsum(self.logprobs)

    @property
    def is_greedy(self) -> bool:
        """Would greedy decoding have written them?"""
        return all(self.likeliest)

    @property
    def broken(self) -> bool:
        """Are there logits that became NaN or infinite?"""
        return not math.isfinite(self.total)


@dataclass
class Rows:
    """What is run: every sequence less its last token, equal ones once, in the order of the input."""

    prompts: list[tuple[int, ...]] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)  # of each row, the first sequence that it is of
    wanted: list[Wanted] = field(default_factory=list)
    _takers: list[list[tuple[int, int]]] = field(default_factory=list)  # of each row, (sequence, its tokens)

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], starts: Sequence[int]) -> Rows:
        """The rows of sequences that are scored from their starts on."""
        rows, places = cls(), dict[tuple[int, ...], int]()
        for n, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
            *before, _ = sequence
            row = places.setdefault(tuple(before), len(places))
            if row == len(rows.prompts):
                rows._add(tuple(before), n)
            rows._want(row, n, sequence, start)
        return rows

    def _add(self, prompt: tuple[int, ...], n: int) -> None:
        self.prompts.append(prompt)
        self.firsts.append(n)
        self.wanted.append(Wanted((), ()))
        self._takers.append([])

    def _want(self, row: int, n: int, sequence: Sequence[int], start: int) -> None:
        after, tokens = self.wanted[row]
        self.wanted[row] = Wanted((*after, *range(start - len(sequence), 0)), (*tokens, *sequence[start:]))
        self._takers[row].append((n, len(sequence) - start))

    def scores(self, row: int, found: Likelihoods) -> Iterator[Score]:
        """Of the sequences that a row is of."""
        logprobs, likeliest, at = found.logprobs.tolist(), found.likeliest.tolist(), 0
        for n, count in self._takers[row]:
            yield Score(n, tuple(logprobs[at : at + count]), tuple(likeliest[at : at + count]))
            at += count


def rows_to_score(sequences: Sequence[Sequence[int]], starts: Sequence[int] | None, shape: ModelShape) -> Rows:
    """Raise PromptError for what cannot be scored, else what is to be run."""
    starts = [1] * len(sequences) if starts is None else starts
    if len(starts) != len(sequences):
        message = f"{len(starts)} starts for {len(sequences)} sequences"
        raise PromptError("FP330", message, fix="give one start a sequence, or none: all are scored from token 1 on")
    for n, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
        refuse_no_ids(sequence, f"sequence {n}")
        _refuse_start(n, len(sequence), start)
        if not 0 <= sequence[-1] < shape.vocab_size:
            message = f"sequence {n} ends with token id {sequence[-1]}, the vocabulary has {shape.vocab_size}"
            raise PromptError("FP305", message, fix="use this model's tokenizer")
    rows = Rows.of(sequences, starts)
    refuse_bad_prompts(rows.prompts, 1, shape, [f"sequence {n}, less its last token," for n in rows.firsts])
    return rows


def _refuse_start(n: int, length: int, start: int) -> None:
    if 1 <= start < length:
        return
    message = f"sequence {n} has {length} tokens and is to be scored from token {start} on"
    raise PromptError("FP331", message, fix="a token is scored after others: give starts from 1 to its length less 1")


def refuse_broken_scores(scores: Sequence[Score], dtype: str) -> None:
    """Raise NoNumbers where logits became NaN or infinite."""
    broken = [score.index for score in scores if score.broken]
    if broken:
        which = ", ".join(map(str, broken[:10])) + (", ..." if len(broken) > 10 else "")
        message = f"logits of sequences {which} are NaN or infinite in {dtype}"
        fix = "take a dtype with a wider range (bfloat16, float32), or look for damaged weights"
        raise NoNumbers("FP1110", message, fix=fix, broken=dict.fromkeys(broken, 0))
