"""The model ``flexplan`` of the LM Evaluation Harness: its questions in token ids, each answered once and kept."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
from tqdm import tqdm

from flexplan.errors import NoNumbers, PromptError, UsageError
from flexplan.journal import request_digest
from flexplan_runtime.evaluate.drawing import Asked
from flexplan_runtime.evaluate.opening import Opened

DEFAULT_MAX_GEN_TOKS = 256  # as the harness's own model for transformers
ANY_DEVICE = "auto"  # the first CUDA device where there is one, else the host


class Pair(NamedTuple):
    """A sequence, and its first token that is scored."""

    ids: tuple[int, ...]
    start: int


@register_model("flexplan")
class FlexplanLM(TemplateLM):
    """Answers the harness through a plan; arguments beside those below are `opening.Opened`'s.

    How many prompts run together is the policy's, so a ``batch_size`` other than 1 or ``auto`` is refused.
    ``add_bos_token``, ``prefix_token_id``, ``max_length`` and ``max_gen_toks`` are as in the harness's ``hf`` model.
    With ``journal`` what was answered before, by a run that ended anyhow, is not asked again.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        batch_size: str | int | None = None,
        max_batch_size: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = DEFAULT_MAX_GEN_TOKS,
        device: str | None = None,
        **opening: Any,
    ) -> None:
        super().__init__()
        _refuse_batch_size(batch_size, max_batch_size)
        self._opened = Opened(pretrained, device=None if device == ANY_DEVICE else device, **opening)
        self.lm, self.tokenizer, self.answers = self._opened.lm, self._opened.tokenizer, self._opened.answers
        self._settings = self._opened.settings()
        self._add_bos = {} if add_bos_token is None else {"add_special_tokens": add_bos_token}
        self._prefix_id = prefix_token_id
        self.max_length = max_length or self.lm.shape.max_positions
        self.max_gen_toks = max_gen_toks

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> FlexplanLM:
        """From ``name=value,...`` and what the harness gives beside it."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> FlexplanLM:
        """From arguments and what the harness gives beside them, which may name the same in both."""
        return cls(**_joined(arg_dict, additional_config or {}))

    def close(self) -> None:
        """Give all memory and disk space back."""
        self._opened.close()

    # -- text and tokens -----------------------------------------------------------------------------------------
    @property
    def eot_token_id(self) -> int:
        found = self.tokenizer.eos_token_id
        return self.lm.math.eos_token_ids[0] if found is None else found

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is read after."""
        if self._prefix_id is not None:
            return self._prefix_id
        return self.eot_token_id if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """As the harness does it: special tokens where the tokenizer puts them, but no second first one."""
        special = self._add_bos if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            special = {"add_special_tokens": False}
        return list(self.tokenizer.encode(string, **special))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """By the tokenizer's own template."""
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(text)

    # -- how likely ----------------------------------------------------------------------------------------------
    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [self._pair(context, continuation) for _, context, continuation in requests]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        for n, logprob, is_greedy in self._scored(pairs, disable_tqdm):
            found[n] = logprob, is_greedy
            self.cache_hook.add_partial("loglikelihood", requests[n][0], found[n])
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Window after window, each token once."""
        pairs, owners = list[Pair](), list[int]()
        for n, request in enumerate(requests):
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, context_len=1
            )
            own = [self._pair(*make_disjoint_window(window)) for window in windows]
            pairs += own
            owners += [n] * len(own)
        totals = [0.0] * len(requests)
        for at, logprob, _ in self._scored(pairs, disable_tqdm):
            totals[owners[at]] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _pair(self, context: Sequence[int], continuation: Sequence[int]) -> Pair:
        """Cut on the left to what the model reads, as the last token is not read."""
        if not 0 < len(continuation) <= self.max_length:
            message = f"a continuation has {len(continuation)} tokens, allowed is 1 to max_length {self.max_length}"
            raise PromptError("FP332", message, fix="shorten it, or raise max_length up to what the model reads")
        ids = (*context, *continuation)[-(self.max_length + 1) :]
        return Pair(ids, len(ids) - len(continuation))

    def _scored(self, pairs: Sequence[Pair], quiet: bool) -> Iterator[tuple[int, float, bool]]:
        """(place, log-probability, is it greedy) of all pairs: those of the journal, then others, the longest first."""
        digests = [request_digest(["score", self._settings, pair]) for pair in pairs]
        left = yield from self._known(digests)
        order = sorted(left.values(), key=lambda places: -len(pairs[places[0]].ids))
        asked = [pairs[places[0]] for places in order]
        stream = self.lm.stream_scores([pair.ids for pair in asked], [pair.start for pair in asked])
        with closing(stream), tqdm(total=len(asked), disable=quiet, desc="Scoring") as bar:
            for score in stream:
                places = order[score.index]
                if score.broken:
                    raise self._no_numbers()
                yield from self._keep(digests[places[0]], places, [score.total, score.is_greedy])
                bar.update()

    # -- what comes next -----------------------------------------------------------------------------------------
    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Requests of equal settings together; an answer is cut where one of its ``until`` begins."""
        end = str(self.tokenizer.decode([self.eot_token_id]))
        groups: dict[str, tuple[Asked, list[int]]] = {}
        for n, request in enumerate(requests):
            asked = Asked.of(request.args[1], self.lm.math.rules, self.max_gen_toks, end)
            groups.setdefault(asked.key, (asked, []))[1].append(n)
        found = [""] * len(requests)
        for asked, places in groups.values():
            contexts = [requests[n].args[0] for n in places]
            for at, text in self._generated(asked, contexts, disable_tqdm):
                found[places[at]] = text
                self.cache_hook.add_partial("generate_until", requests[places[at]].args, text)
        return found

    def _generated(self, asked: Asked, contexts: Sequence[str], quiet: bool) -> Iterator[tuple[int, str]]:
        """(place, answer) of all contexts, each cut on the left to leave room for its answer."""
        room = self.max_length - asked.most
        if room < 1:
            message = f"max_gen_toks {asked.most} of max_length {self.max_length} leaves no room for a prompt"
            raise UsageError("FP193", message, fix="lower max_gen_toks")
        prompts = [self.tok_encode(context)[-room:] for context in contexts]
        digests = [
            request_digest(["generate", self._settings, asked.key, ids, n if asked.sampling.do_sample else None])
            for n, ids in enumerate(prompts)
        ]
        left = yield from self._known(digests)
        order = sorted(left.values(), key=lambda places: -len(prompts[places[0]]))
        at = {places[0]: places for places in order}
        stream = self.lm.stream(
            [prompts[n] for n in at], asked.most, sampling=asked.sampling, stops=self._ends(), numbers=tuple(at)
        )
        with closing(stream), tqdm(total=len(at), disable=quiet, desc="Generating") as bar:
            for done in stream:
                if done.finish_reason == "error":
                    raise self._no_numbers()
                text = asked.cut(str(self.tokenizer.decode(list(done.token_ids), skip_special_tokens=True)))
                yield from self._keep(digests[done.index], at[done.index], [text])
                bar.update()

    def _ends(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((self.eot_token_id, *self.lm.math.eos_token_ids)))

    # -- answers that are kept -----------------------------------------------------------------------------------
    def _known(self, digests: Iterable[str]) -> Generator[Any, None, dict[str, list[int]]]:
        """Answers that the journal has; returns the places of each question that is left, by its digest."""
        left: dict[str, list[int]] = {}
        for n, digest in enumerate(digests):
            if self.answers is not None and digest in self.answers:
                yield (n, *self.answers[digest])
            else:
                left.setdefault(digest, []).append(n)
        return left

    def _keep(self, digest: str, places: Sequence[int], answer: list[Any]) -> Iterator[Any]:
        if self.answers is not None:
            self.answers.keep(digest, answer)
        for n in places:
            yield (n, *answer)

    def _no_numbers(self) -> NoNumbers:
        dtype = str(self.lm.dtype).removeprefix("torch.")
        fix = "give dtype=bfloat16 or float32, or look for damaged weights; what was answered is in the journal"
        return NoNumbers("FP1111", f"logits became NaN or infinite in {dtype}", fix=fix)


def _refuse_batch_size(batch_size: str | int | None, max_batch_size: int | None) -> None:
    for name, value in (("batch_size", batch_size), ("max_batch_size", max_batch_size)):
        if value not in (None, 1, "1", "auto"):
            message = f"{name} {value}: how many prompts run together is the policy's"
            raise UsageError("FP194", message, fix="leave it out; a plan chooses it, or `flexplan solve` by hand")


def _joined(given: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a model, and what the harness has flags for; it gives a device and sizes without being asked."""
    known = {name: value for name, value in beside.items() if value is not None}
    _refuse_batch_size(known.get("batch_size"), known.get("max_batch_size"))
    asked, flag = given.get("device"), known.get("device")
    if asked is not None and flag not in (None, ANY_DEVICE, asked):
        message = f"device={asked} of the model's arguments beside the harness's device {flag}"
        raise UsageError("FP113", message, fix="leave one of them out")
    return {**known, **given}
