"""A GGUF file into a model directory: whole, or not at all.

Where all matrices of the layers are Q8_0, or all Q4_0, their codes are kept, in the layout of compressed-tensors;
anything else becomes numbers of 16 bits, as the directory's config says.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexplan.files import workshop
from flexplan.model import read_config
from flexplan.model.checkpoint import parameter_sources
from flexplan.model.places import gguf_place, has_config
from flexplan.model.stored import INDEX
from flexplan.model.tensors import weight_tensors
from flexplan_runtime.weights.gguf.codes import Array, blocks_of, coded, config_of_codes, kept_bits
from flexplan_runtime.weights.gguf.config import config_of
from flexplan_runtime.weights.gguf.file import GgufFile
from flexplan_runtime.weights.gguf.tokenizer import write_tokenizer

_SHARD_BYTES = 2 << 30
_ENDINGS = (".weight", ".bias")


def converted(source: Path) -> Path:
    """The model directory of a GGUF file, made on the first call; it is found again while the file stays as it is."""
    target = gguf_place(source)
    if not has_config(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with workshop(target.parent) as made:
            convert(GgufFile(source), made)
            _publish(made, target)
    return target


def _publish(made: Path, target: Path) -> None:
    """Rename into place; where another process was first, its result stands."""
    made.chmod(0o755)
    try:
        made.rename(target)
    except OSError:
        shutil.rmtree(made)
        if not has_config(target):
            raise


def convert(file: GgufFile, target: Path) -> None:
    """Write the model of a file to a directory; what cannot be converted is refused before anything is written."""
    if file.get("split.count", 1) != 1:
        raise file.refuse("is one of several parts", "join them with llama-gguf-split --merge")
    config = config_of(file)
    names = _names(file, config)
    matrices = _matrices(config)
    bits = kept_bits(file, (names[name] for name in matrices))
    write_tokenizer(file, target)
    _write_shards(_tensors(file, config, names, dict.fromkeys(matrices, bits)), target)
    if bits:
        config |= {"quantization_config": config_of_codes(bits)}
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if config[key] is not None}
    (target / "generation_config.json").write_text(json.dumps(ends, indent=2))
    (target / "config.json").write_text(json.dumps(config, indent=2))


def _names(file: GgufFile, config: dict[str, Any]) -> dict[str, str]:
    """The file's tensor for each that the family has."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == file.architecture)
    known = get_tensor_name_map(architecture, config["num_hidden_layers"])
    shape, _ = read_config(config)
    wanted = dict.fromkeys(source.hf_name for source in parameter_sources(shape, ()))
    names = {name: known.get_name(name, try_suffixes=_ENDINGS) or "" for name in wanted}
    missing = [f"{name} ({names[name] or 'of no known name'})" for name in wanted if names[name] not in file.tensors]
    if missing:
        raise file.refuse(f"lacks {len(missing)} tensors: {', '.join(missing[:5])}", "convert the model to GGUF anew")
    return names


def _matrices(config: dict[str, Any]) -> list[str]:
    """The tensors of the family that a format of codes is about."""
    shape, _ = read_config(config | {"quantization_config": config_of_codes(8)})
    coded = {(t.layer, t.name) for t in weight_tensors(shape) if t.packing}
    return [s.hf_name for s in parameter_sources(shape, ()) if (s.layer, s.name) in coded]


def _tensors(
    file: GgufFile, config: dict[str, Any], names: dict[str, str], bits: Mapping[str, int | None]
) -> Iterator[tuple[str, Tensor]]:
    dtype: torch.dtype = getattr(torch, config["dtype"])
    for name, stored in names.items():
        if kept := bits.get(name):
            yield from coded(name, _arranged(file, config, stored, blocks_of(file, stored)), kept).items()
        else:
            numbers = _arranged(file, config, stored, file.numbers(stored))
            yield name, torch.from_numpy(numbers).to(dtype).contiguous()


def _arranged(file: GgufFile, config: dict[str, Any], stored: str, numbers: Array) -> Array:
    """Numbers, or rows of blocks, as Hugging Face arranges them."""
    kind = stored.split(".")[-2]
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    if file.architecture == "llama" and kind in heads:
        return halves_together(numbers, heads[kind])
    if file.architecture == "gemma3" and kind.endswith("norm"):
        return numbers - 1  # GGUF's are what is multiplied with, Gemma's are added to 1
    return numbers


def halves_together(rows: Array, num_heads: int) -> Array:
    """Undo GGUF's order of Llama's rotary rows: it stores pairs side by side, Hugging Face the two halves."""
    pairs = rows.reshape(num_heads, len(rows) // num_heads // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _write_shards(tensors: Iterator[tuple[str, Tensor]], target: Path) -> None:
    """Some gigabytes in memory at a time."""
    from safetensors.torch import save_file  # whoever has no GGUF file has no use for it

    held: dict[str, Tensor] = {}
    places: dict[str, str] = {}

    def write() -> None:
        shard = f"model-{len(set(places.values())) + 1:05}.safetensors"
        save_file(held, target / shard, metadata={"format": "pt"})
        places.update(dict.fromkeys(held, shard))
        held.clear()

    for name, tensor in tensors:
        held[name] = tensor
        if sum(t.nbytes for t in held.values()) >= _SHARD_BYTES:
            write()
    if held:
        write()
    (target / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}, indent=1))
