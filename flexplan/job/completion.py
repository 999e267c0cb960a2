"""Completions: what became of a request, its answers, and what the model made of their tokens."""

from __future__ import annotations

from dataclasses import dataclass

from flexplan.problem.prompts.request_line import Api, Content


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its natural log-probability; ``raw`` are its bytes, None where they are not known.

    ``top`` are the likeliest tokens at its position, in falling order.
    """

    id: int
    text: str
    raw: bytes | None
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer; ``token_ids`` ends with the stop token where one was met, ``text`` ends before a stop text.

    ``finish_reason``: ``"stop"``, ``"length"``, or ``"error"`` where the logits became NaN or infinite.
    """

    text: str | None
    token_ids: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A request's answers, one where no more were asked for; none where it was not run."""

    id: str | int
    prompt: Content
    choices: tuple[Choice, ...]
    num_prompt_tokens: int
    api: Api = "own"  # whose words it was asked in

    @property
    def text(self) -> str | None:
        """Of the first answer; None where there is no tokenizer."""
        return self.choices[0].text if self.choices else None

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Of the first answer."""
        return self.choices[0].token_ids if self.choices else ()

    @property
    def num_tokens(self) -> int:
        """New tokens of all answers."""
        return sum(len(choice.token_ids) for choice in self.choices)
