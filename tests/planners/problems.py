"""Problems small enough to solve by the hundred, whose budgets still force a choice."""

from __future__ import annotations

from flexplan.hardware import hardware_from
from flexplan.model import ModelShape
from flexplan.problem import Problem
from flexplan.units import MiB

# starting tasks would else take longer than all the bytes of so small a model
STARTS = {"kernel_s": 60e-6, "copy_s": 18e-6, "host_task_s": 50e-6, "disk_request_s": 100e-6}


def shape(**changes: object) -> ModelShape:
    """A model of four layers and 9 MiB of weights."""
    given = {
        "name": "small",
        "family": "opt",
        "num_layers": 4,
        "hidden_size": 256,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 64,
        "ffn_size": 1024,
        "gated": False,
        "vocab_size": 4096,
        "embed_size": 256,
        "tied_embeddings": True,
        "positions": "learned",
        "max_positions": 256,
        "norm": "layer",
        "norm_bias": True,
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
    }
    return ModelShape.model_validate(given | changes)


LLAMA = shape(
    name="grouped",
    family="llama",
    num_kv_heads=1,
    gated=True,
    norm="rms",
    norm_bias=False,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    positions="rotary",
    tied_embeddings=False,
)
MIXTURE = shape(
    name="mixture",
    family="mixtral",
    gated=True,
    norm="rms",
    norm_bias=False,
    num_experts=4,
    experts_per_token=2,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    positions="rotary",
    tied_embeddings=False,
)
SHAPES = (shape(), LLAMA, MIXTURE)


def problem(
    gpu: float = 8,
    cpu: float = 64,
    disk: float = 0,
    model: ModelShape | None = None,
    prompt_len: int = 32,
    gen_len: int = 8,
    num_prompts: int | None = 16,
    hardware: str = "t4-gcp",
) -> Problem:
    """Budgets in MiB."""
    return Problem.of(
        model or shape(),
        gpu_mem=int(gpu * MiB),
        cpu_mem=int(cpu * MiB),
        disk_mem=int(disk * MiB),
        hardware=hardware_from(hardware).model_copy(update=STARTS),
        prompt_len=prompt_len,
        gen_len=gen_len,
        num_prompts=num_prompts,
    )
