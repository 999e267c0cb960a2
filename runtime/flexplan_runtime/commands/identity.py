"""What the answers of a job depend on, in short: digests of the model, its weights and its tokenizer, and the settings.

Nothing of a policy: where tensors lie and how rows are grouped may change between two runs of one job.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from flexplan.model.checkpoint.files import read_safetensors
from flexplan.model.places import directory_of
from flexplan_runtime.commands.prepare import Ready

_SAMPLE_BYTES = 4096
_SAMPLES = 16  # of a file of weights, from its header to its end, beside a page of each of its tensors
_READ_WHOLE = 64 << 20  # bytes: of files that are no larger
_WEIGHTS = ("*.safetensors", "*.npy")
_CONFIG = ("config.json", "generation_config.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def settings_of(ready: Ready) -> dict[str, str]:
    """By name, each as text; a model directory that was moved or copied gives the same."""
    request = ready.request
    stops = ", ".join(map(str, ready.stops))
    return {
        **_model(ready),
        "dtype": str(ready.dtype).removeprefix("torch."),
        "max_new_tokens": str(request.max_new_tokens),
        "sampling": _sampling(ready),
        "stop": stops or "never",
    }


def _model(ready: Ready) -> dict[str, str]:
    if isinstance(ready.weights, Path):
        return digests_of(directory_of(ready.weights))
    length = "" if ready.request.prompts else f", prompts too, of length {ready.request.dummy_prompt_len or 'as usual'}"
    return {"model": ready.shape.name, "weights": f"random, seed {ready.request.seed}{length}"}


def digests_of(directory: Path) -> dict[str, str]:
    """Of a model's directory: its configuration, its weights or some pages of them, its tokenizer."""
    weights = (path for pattern in _WEIGHTS for path in sorted(directory.glob(pattern)))
    return {
        "model": _digest(directory / name for name in _CONFIG),
        "weights": _digest(weights, sampled=True),
        "tokenizer": _digest(directory / name for name in _TOKENIZER),
    }


def _sampling(ready: Ready) -> str:
    found = ready.sampling
    if not found.do_sample:
        request = ready.request
        own = {name: getattr(request, name) for name in ("temperature", "top_k", "top_p")} | {
            "seed": found.seed or None
        }
        drawn = ", ".join(f"{name} {value}" for name, value in own.items() if value is not None)
        return f"greedy, drawn lines by {drawn}" if drawn else "greedy"
    names = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "seed")
    said = {name: getattr(found, name) for name in names}
    said["temperature"] = 1.0 if found.temperature is None else found.temperature
    return ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)


def _digest(paths: Iterable[Path], *, sampled: bool = False) -> str:
    """Of names, sizes and contents; of weights, of some pages of each file that is large."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            digest.update(_sample(path, size) if sampled and size > _READ_WHOLE else path.read_bytes())
    return digest.hexdigest()[:16]


def _sample(path: Path, size: int) -> bytes:
    """Pages spread over a file, and the first one of each tensor: whoever trains on changes tensors as a whole."""
    step = (size - _SAMPLE_BYTES) // (_SAMPLES - 1)
    pages = {n * step for n in range(_SAMPLES)}
    if path.suffix == ".safetensors":
        pages |= {tensor.offset for tensor in read_safetensors(path).values()}
    with path.open("rb", buffering=0) as file:
        return b"".join(_read(file.fileno(), page) for page in sorted(pages))


def _read(fd: int, offset: int) -> bytes:
    found = b""
    while len(found) < _SAMPLE_BYTES and (more := os.pread(fd, _SAMPLE_BYTES - len(found), offset + len(found))):
        found += more
    return found
