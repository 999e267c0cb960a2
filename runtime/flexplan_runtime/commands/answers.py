"""Answers of a job: what the engine gives made into completions, each once all of its answers have ended."""

from __future__ import annotations

from bisect import bisect_left

from flexplan.job import Choice, Completion, TokenLogprob
from flexplan_runtime.commands.prepare import Ready
from flexplan_runtime.execute import Logprob
from flexplan_runtime.generate import Done, Tokenizer, cut

_LEAST = -9999.0  # OpenAI's word for impossible: JSON has none for infinity


class Answers:
    """Those of which some are still at work."""

    def __init__(self, ready: Ready) -> None:
        self._ready = ready
        self._waiting: dict[int, list[Done]] = {}

    def of(self, done: Done) -> Completion | None:
        """The completion that ends with this answer, if one does."""
        requests, at = self._ready.requests, bisect_left(self._ready.places, done.index)
        wishes, together = requests.wishes(at), [done]
        if wishes.n > 1:
            together = self._waiting.setdefault(at, [])
            together.append(done)
            if len(together) < wishes.n:
                return None
            del self._waiting[at]
        prompt, ids = requests.prompt(at), requests.ids[at]
        in_order = sorted(together, key=lambda one: one.choice)
        choices = tuple(self._choice(one, ids, wishes.stop) for one in in_order)
        return Completion(prompt.id, prompt.content, choices, len(ids), prompt.api)

    def _choice(self, done: Done, after: list[int], stops: tuple[str, ...]) -> Choice:
        tokenizer = self._ready.tokenizer
        text = tokenizer.decode(done.token_ids, after=after)
        if text is not None and stops:
            text = cut(text, stops)
        logprobs = None
        if done.logprobs is not None:
            told = zip(done.token_ids, done.logprobs, strict=True)
            logprobs = tuple(_told(tokenizer, token, logprob) for token, logprob in told)
        return Choice(text, done.token_ids, done.finish_reason, logprobs)


def _told(tokenizer: Tokenizer, token: int, logprob: Logprob) -> TokenLogprob:
    top = tuple(TokenLogprob(one, *tokenizer.piece(one), max(value, _LEAST)) for one, value in logprob.top)
    return TokenLogprob(token, *tokenizer.piece(token), max(logprob.chosen, _LEAST), top)
