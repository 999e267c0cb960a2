"""What others call the parts of a model: transformers' modules with their bytes, and the tensors of a GGUF file."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from flexplan.errors import UsageError
from flexplan.model import TOKENS, ModelShape, WeightTensor, weight_tensors

LLAMA_LIKE = ("llama", "mistral", "mixtral", "qwen2", "qwen3")  # modules named as Llama's; llama.cpp reads these
EXPORTED = ("opt", *LLAMA_LIKE)  # families whose modules are known


@dataclass(frozen=True, slots=True)
class Module:
    """A module of transformers' model, and the weight bytes in it."""

    name: str
    nbytes: int


def transformers_modules(shape: ModelShape) -> list[Module]:
    """The modules that hold all weights and buffers, in the order of the computation.

    A head that is tied to the token table has no bytes of its own.
    """
    nbytes: dict[str, int] = defaultdict(int)
    for tensor in weight_tensors(shape):
        nbytes[_module_of(shape, tensor)] += tensor.nbytes
    return [Module(name, nbytes[name]) for name in _names(shape)]


def _is_opt(shape: ModelShape) -> bool:
    """Is a model's tree of modules OPT's, or Llama's?  Any other family is a UsageError."""
    if shape.family not in EXPORTED:
        known = ", ".join(EXPORTED)
        message = f"the modules of {shape.name}, a model of the family {shape.family!r}, are not known"
        raise UsageError("FP133", message, fix=f"export a model of these families: {known}")
    return shape.family == "opt"


def _trunk(shape: ModelShape) -> str:
    return "model.decoder" if _is_opt(shape) else "model"


def _names(shape: ModelShape) -> list[str]:
    opt, trunk = _is_opt(shape), _trunk(shape)
    projected = opt and shape.embed_size != shape.hidden_size
    parts = ["embed_tokens"]
    parts += ["embed_positions"] if opt else []
    parts += ["project_in"] if projected else []
    parts += [f"layers.{n}" for n in range(shape.num_layers)]
    if shape.final_norm:
        parts.append("final_layer_norm" if opt else "norm")
    parts += ["project_out"] if projected else []
    parts += [] if opt else ["rotary_emb"]  # no weights, but a buffer
    return [*(f"{trunk}.{part}" for part in parts), "lm_head"]


def _module_of(shape: ModelShape, tensor: WeightTensor) -> str:
    opt, trunk = _is_opt(shape), _trunk(shape)
    if 0 <= tensor.layer < shape.num_layers:
        return f"{trunk}.layers.{tensor.layer}"
    outside = {
        TOKENS: "embed_tokens",
        "positions.weight": "embed_positions",
        "project_in.weight": "project_in",
        "project_out.weight": "project_out",
        "final_norm.weight": "final_layer_norm" if opt else "norm",
        "final_norm.bias": "final_layer_norm",
    }
    return f"{trunk}.{outside[tensor.name]}" if tensor.name in outside else "lm_head"


def gguf_group(tensor: WeightTensor) -> str:
    """Which matrices of a GGUF file this is; ``small`` is what is not worth moving.

    >>> from flexplan.model.catalog import model_shape
    >>> sorted({gguf_group(t) for t in weight_tensors(model_shape("meta-llama/Llama-2-7b-hf"))})
    ['attn', 'ffn', 'output', 'small', 'token_embd']
    """
    if tensor.name == TOKENS and tensor.block == "embed":
        return "token_embd"
    if tensor.name in (TOKENS, "lm_head.weight"):
        return "output"
    if tensor.cols == 1 or tensor.name == "router.weight":
        return "small"
    return "attn" if tensor.block == "attention" else "ffn"
