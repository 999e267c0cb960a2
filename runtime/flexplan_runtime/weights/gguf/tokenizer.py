"""The tokenizer that a GGUF file carries, as `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flexplan.errors import ModelFilesError
from flexplan_runtime.weights.gguf.file import GgufFile

_SPECIAL = 3  # GGUF's kind of <|im_start|> and its like
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
_QWEN = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_SPLITS = {"smollm": None, "llama-bpe": _LLAMA3, "qwen2": _QWEN}  # None: digits apart, then as GPT-2 does


def write_tokenizer(file: GgufFile, target: Path) -> None:
    """`tokenizer.json` and `tokenizer_config.json`; a way to split text that is not known is refused by its name."""
    model = file.get("tokenizer.ggml.model")
    write = _WRITERS.get(model)
    if write is None:
        raise file.refuse(f"tokenizer.ggml.model {model!r:.40} is not converted", "use a safetensors checkpoint")
    try:
        write(file, target)
    except ModelFilesError:
        raise
    except Exception as error:  # of a vocabulary and merges that do not fit, both packages say it in their own ways
        message = f"its tokenizer does not read: {str(error)[:200] or type(error).__name__}"
        raise file.refuse(message, "download the file again") from error


def _write_pieces(file: GgufFile, target: Path) -> None:
    """SentencePiece's pieces, which transformers converts."""
    from transformers import AutoTokenizer  # takes seconds to import

    tokenizer = AutoTokenizer.from_pretrained(file.path.parent, gguf_file=file.path.name)
    tokenizer.save_pretrained(target)


def _write_bytes_bpe(file: GgufFile, target: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models

    tokens, kinds = file.get("tokenizer.ggml.tokens"), file.get("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in file.get("tokenizer.ggml.merges")]
    bpe = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, merges))
    bpe.pre_tokenizer = _splitter(file)
    bpe.decoder = decoders.ByteLevel()
    marks = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _SPECIAL]
    bpe.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    if file.get("tokenizer.ggml.add_bos_token", False):
        bpe.post_processor = _begun(tokens[file.get("tokenizer.ggml.bos_token_id")], bpe)
    bpe.save(str(target / "tokenizer.json"))
    (target / "tokenizer_config.json").write_text(json.dumps(_settings(file, tokens), indent=2))


def _splitter(file: GgufFile) -> Any:
    from tokenizers import Regex, pre_tokenizers

    name = file.get("tokenizer.ggml.pre", "default")
    if name not in _SPLITS:
        raise file.refuse(f"tokenizer.ggml.pre {name!r:.40} is not converted", f"known are {', '.join(_SPLITS)}")
    split = _SPLITS[name]
    if split is None:
        first: Any = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([first, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    first = pre_tokenizers.Split(Regex(split), "isolated")
    return pre_tokenizers.Sequence([first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _begun(mark: str, bpe: Any) -> Any:
    from tokenizers import processors

    return processors.TemplateProcessing(
        single=f"{mark} $A", pair=f"{mark} $A {mark} $B", special_tokens=[(mark, bpe.token_to_id(mark))]
    )


def _settings(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding"}
    ids = {key: file.get(f"tokenizer.ggml.{name}_token_id", None) for key, name in names.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{key: tokens[n] for key, n in ids.items() if n is not None},
        "padding_side": "left",
        "model_max_length": file.count("context_length"),
        "chat_template": file.get("tokenizer.chat_template", None),
    }


_WRITERS = {"gpt2": _write_bytes_bpe, "llama": _write_pieces}
