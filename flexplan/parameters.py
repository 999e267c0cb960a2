"""What becomes of each parameter that people bring: of a model's generation config, and of the two OpenAI bodies.

Refusals, warnings and `docs/parameters.md` are all made of the tables below.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

Verdict = Literal["honoured", "warned", "refused", "irrelevant"]

HONOURED: Verdict = "honoured"
WARNED: Verdict = "warned"
REFUSED: Verdict = "refused"
IRRELEVANT: Verdict = "irrelevant"


class Parameter(NamedTuple):
    """A verdict and its reason; a value in ``idle`` asks for nothing, and None never does."""

    verdict: Verdict
    why: str
    idle: tuple[Any, ...] = ()

    def asks(self, value: Any) -> bool:
        """Would this value change anything?"""
        return value is not None and not any(value == idle and type(value) is type(idle) for idle in self.idle)


def _all(verdict: Verdict, why: str, **idle: tuple[Any, ...]) -> dict[str, Parameter]:
    """Parameters of one verdict and reason, each with its idle values."""
    return {name: Parameter(verdict, why, values) for name, values in idle.items()}


# -- generation_config.json, or a config.json without one beside it ----------------------------------------------
GENERATION: Mapping[str, Parameter] = MappingProxyType(
    {
        **_all(HONOURED, "greedy and sampled", repetition_penalty=(1.0, 1), no_repeat_ngram_size=(0,)),
        **_all(HONOURED, "greedy and sampled", min_length=(0,), min_new_tokens=()),
        **_all(HONOURED, "greedy and sampled", bad_words_ids=(), sequence_bias=()),
        **_all(HONOURED, "greedy and sampled", suppress_tokens=(), begin_suppress_tokens=()),
        **_all(HONOURED, "greedy and sampled", forced_bos_token_id=(), forced_eos_token_id=()),
        **_all(HONOURED, "greedy and sampled", exponential_decay_length_penalty=(), remove_invalid_values=(False,)),
        **_all(HONOURED, "where a row ends (`--ignore-eos`: nowhere)", eos_token_id=()),
        **_all(HONOURED, "left padding without a mask, and what fills rows that ended", pad_token_id=()),
        "do_sample": Parameter(WARNED, "runs are greedy unless `--do-sample` asks for draws", (False,)),
        **_all(HONOURED, "with `--do-sample`, where no flag says otherwise", temperature=(1.0, 1), top_k=(50, 0)),
        **_all(HONOURED, "with `--do-sample`, where no flag says otherwise", top_p=(1.0, 1), min_p=()),
        **_all(HONOURED, "with `--do-sample`", typical_p=(1.0, 1), epsilon_cutoff=(0.0, 0), eta_cutoff=(0.0, 0)),
        **_all(REFUSED, "only with `--do-sample`: greedy tokens are the same", top_h=()),
        **_all(REFUSED, "beam search is not implemented", num_beams=(1,), constraints=(), force_words_ids=()),
        **_all(REFUSED, "contrastive search is not implemented", penalty_alpha=(0.0, 0)),
        **_all(REFUSED, "not implemented", dola_layers=(), guidance_scale=(1.0, 1), watermarking_config=()),
        **_all(REFUSED, "one answer a prompt", num_return_sequences=(1,)),
        **_all(REFUSED, "needs the tokenizer while generating", stop_strings=(), token_healing=(False,)),
        **_all(REFUSED, "no run ends by the clock", max_time=()),
        **_all(REFUSED, "for models with an encoder", encoder_repetition_penalty=(1.0, 1)),
        **_all(REFUSED, "for models with an encoder", encoder_no_repeat_ngram_size=(0,)),
        **_all(IRRELEVANT, "the run says how many tokens", max_length=(), max_new_tokens=()),
        **_all(IRRELEVANT, "of beam search", early_stopping=(), length_penalty=(), diversity_penalty=()),
        **_all(IRRELEVANT, "of beam search", num_beam_groups=()),
        **_all(IRRELEVANT, "changes no token", renormalize_logits=(), use_cache=(), low_memory=(), disable_compile=()),
        **_all(IRRELEVANT, "the policy says where the cache is", cache_implementation=(), cache_config=()),
        **_all(IRRELEVANT, "the policy says where the cache is", max_cache_len=(), prefill_chunk_size=()),
        **_all(IRRELEVANT, "what transformers hands back beside tokens", output_attentions=(), output_scores=()),
        **_all(IRRELEVANT, "what transformers hands back beside tokens", output_hidden_states=(), output_logits=()),
        **_all(IRRELEVANT, "what transformers hands back beside tokens", return_dict_in_generate=()),
        **_all(IRRELEVANT, "the tokenizer puts it there", bos_token_id=(), decoder_start_token_id=()),
        **_all(IRRELEVANT, "a helper model only proposes greedy tokens", is_assistant=(), num_assistant_tokens=()),
        **_all(IRRELEVANT, "a helper model only proposes greedy tokens", num_assistant_tokens_schedule=()),
        **_all(IRRELEVANT, "a helper model only proposes greedy tokens", assistant_confidence_threshold=()),
        **_all(IRRELEVANT, "a helper model only proposes greedy tokens", assistant_early_exit=(), use_mtp=()),
        **_all(IRRELEVANT, "a helper model only proposes greedy tokens", assistant_lookbehind=()),
        **_all(IRRELEVANT, "a helper model only proposes greedy tokens", target_lookbehind=(), speculation_type=()),
        **_all(IRRELEVANT, "a helper model only proposes greedy tokens", assistant_ensemble_weight=()),
        **_all(IRRELEVANT, "the prompt only proposes greedy tokens", prompt_lookup_num_tokens=()),
        **_all(IRRELEVANT, "the prompt only proposes greedy tokens", max_matching_ngram_size=()),
        **_all(IRRELEVANT, "how transformers itself runs", compile_config=(), continuous_batching_config=()),
        **_all(IRRELEVANT, "where the file came from", transformers_version=(), _from_model_config=()),
    }
)

# -- OpenAI: what stands in the body of a batch line ---------------------------------------------------------------
_BOTH: Mapping[str, Parameter] = MappingProxyType(
    {
        **_all(IRRELEVANT, "the model is given by `--model`", model=()),
        **_all(IRRELEVANT, "names whose request it is", user=(), safety_identifier=(), metadata=()),
        **_all(IRRELEVANT, "of a service", service_tier=(), store=(False,), prompt_cache_key=()),
        **_all(IRRELEVANT, "of a service", prompt_cache_retention=()),
        **_all(HONOURED, "at most; else `--max-new-tokens`", max_tokens=()),
        **_all(HONOURED, "above 0 draws, 0 is greedy; else `--do-sample --temperature`", temperature=()),
        **_all(HONOURED, "of draws; else the flag, else the model's own", top_p=(), top_k=(), min_p=()),
        **_all(HONOURED, "draws then depend on it and the position alone; else `--seed` and the place", seed=()),
        **_all(HONOURED, "up to four texts, and token ids; the text ends before them", stop=([],)),
        **_all(HONOURED, "as in vLLM: ids that end an answer, beside the model's", stop_token_ids=([],)),
        **_all(HONOURED, "so many answers, each drawn for itself", n=(1,)),
        **_all(HONOURED, "of tokens that the answer has so far", presence_penalty=(0, 0.0), frequency_penalty=(0, 0.0)),
        **_all(HONOURED, "as in transformers, of prompt and answer; else the model's own", repetition_penalty=()),
        **_all(HONOURED, "added to the logits of tokens", logit_bias=({},)),
        **_all(REFUSED, "a file is written, nothing is streamed", stream=(False,), stream_options=()),
    }
)
COMPLETIONS: Mapping[str, Parameter] = MappingProxyType(
    {
        "prompt": Parameter(HONOURED, "text or token ids, or a list of one such"),
        **_BOTH,
        **_all(HONOURED, "of the model's own logits, up to 20 tokens a position", logprobs=()),
        **_all(REFUSED, "all answers are written: give `n`", best_of=(1,)),
        **_all(REFUSED, "only new text is written", echo=(False,), suffix=("",)),
    }
)
CHAT: Mapping[str, Parameter] = MappingProxyType(
    {
        "messages": Parameter(HONOURED, "text, by the tokenizer's chat template"),
        **_BOTH,
        **_all(HONOURED, "the same as `max_tokens`", max_completion_tokens=()),
        **_all(HONOURED, "of the model's own logits, up to 20 tokens a position", logprobs=(False,), top_logprobs=()),
        **_all(REFUSED, "output is not constrained", response_format=({"type": "text"},), verbosity=()),
        **_all(REFUSED, "tools are not called", tools=([],), tool_choice=("none", "auto")),
        **_all(IRRELEVANT, "of tools, which are refused", parallel_tool_calls=()),
        **_all(REFUSED, "tools are not called", functions=([],), function_call=("none", "auto")),
        **_all(REFUSED, "text only", modalities=(["text"],), audio=()),
        **_all(REFUSED, "not implemented", prediction=(), reasoning_effort=(), web_search_options=()),
    }
)


def asked(
    given: Mapping[str, Any], known: Mapping[str, Parameter], verdicts: Collection[Verdict]
) -> dict[str, Parameter]:
    """The given parameters that ask for something and have one of these verdicts."""
    found = {name: known[name] for name in given if name in known}
    return {name: p for name, p in found.items() if p.verdict in verdicts and p.asks(given[name])}


def as_page() -> str:
    """`docs/parameters.md`."""
    return _HEAD + "".join(_section(title, table) for title, table in _SECTIONS.items())


def _section(title: str, table: Mapping[str, Parameter]) -> str:
    rows = [f"| `{name}` | {table[name].verdict} | {table[name].why} |" for name in sorted(table)]
    return "\n".join([f"\n## {title}\n", "| parameter | | |", "|---|---|---|", *rows]) + "\n"


_SECTIONS = {
    "The model's generation config": GENERATION,
    "The body of `/v1/completions`": COMPLETIONS,
    "The body of `/v1/chat/completions`": CHAT,
}
_HEAD = """\
# Parameters

What becomes of each parameter that a model directory or a batch line brings. *Honoured*: as in transformers, or as in
OpenAI's API. *Warned*: the run goes another way, and says so by name. *Refused*: an error names it before anything
runs, where its value asks for something. *Irrelevant*: no token depends on it here.

Of a model's directory `generation_config.json` counts, and only where there is none do the same keys of `config.json`:
so it is in transformers, and so it is for the end and pad ids. Keys that transformers does not know ask for nothing
there, and nothing here.

This page is written by `FLEXPLAN_WRITE_DOCS=1 pytest tests/flexplan/test_parameters.py` from `flexplan/parameters.py`.
"""
