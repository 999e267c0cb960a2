"""What a family calls its tensors in a checkpoint: our stems, and theirs.

A stem is a tensor's name without ``.weight`` or ``.bias``.  Theirs are stacked in our order: queries, keys, values;
gate, up.  ``{}`` is the number of a layer, ``{e}`` that of an expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Stems = Mapping[str, tuple[str, ...]]
_ROOTS = ("model.", "", "language_model.model.", "model.language_model.")  # the last two: beside what sees images


@dataclass(frozen=True)
class Names:
    """The names of one family.

    ``outside`` are alternatives, the first that the checkpoint has; ``inside`` are the parts of a layer, ``experts``
    those of an expert, alternatives to each other.  Where ``fused`` has a name that the checkpoint has, all experts of
    a layer are in one tensor, the expert first.  ``otherwise`` are parts of a layer by another name, where the
    checkpoint has that.  ``transposed``: matrices with these stems of ours lie by input; ``bare``:
    theirs has no ending.  ``by_head``: queries, keys and values are one tensor, KV head by KV head.
    """

    roots: tuple[str, ...]
    layer: str
    outside: Stems
    inside: Stems
    experts: tuple[Stems, ...] = ()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    router: tuple[str, ...] = ()
    transposed: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()
    by_head: bool = False
    otherwise: Mapping[str, str] = field(default_factory=dict)


LLAMA = Names(
    roots=_ROOTS,
    layer="layers.{}.",
    outside={"tokens": ("embed_tokens",), "final_norm": ("norm",), "lm_head": ("lm_head", "language_model.lm_head")},
    inside={
        "attention_norm": ("input_layernorm",),
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "q_norm": ("self_attn.q_norm",),
        "k_norm": ("self_attn.k_norm",),
        "out": ("self_attn.o_proj",),
        "mlp_norm": ("post_attention_layernorm",),
        "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "up": ("mlp.up_proj",),
        "down": ("mlp.down_proj",),
    },
)
MIXTRAL = replace(
    LLAMA,
    router=("block_sparse_moe.gate", "mlp.gate"),
    experts=tuple(
        {"gate_up": (f"{moe}.experts.{{e}}.w1", f"{moe}.experts.{{e}}.w3"), "down": (f"{moe}.experts.{{e}}.w2",)}
        for moe in ("block_sparse_moe", "mlp")
    ),
    fused={
        stem: tuple(f"{moe}.experts.{stem}_proj" for moe in ("block_sparse_moe", "mlp")) for stem in ("gate_up", "down")
    },
)
QWEN_EXPERTS = replace(
    LLAMA,
    router=("mlp.gate",),
    experts=(
        {
            "gate_up": ("mlp.experts.{e}.gate_proj", "mlp.experts.{e}.up_proj"),
            "down": ("mlp.experts.{e}.down_proj",),
        },
    ),
    fused={stem: (f"mlp.experts.{stem}_proj",) for stem in ("gate_up", "down")},
)
GLM_EXPERTS = replace(
    QWEN_EXPERTS,
    inside={
        **LLAMA.inside,
        "router_correction": ("mlp.gate.e_score_correction_bias",),
        "shared.gate_up": ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
        "shared.down": ("mlp.shared_experts.down_proj",),
    },
    bare=frozenset(("router_correction",)),
)
GPT_OSS = replace(
    LLAMA,
    inside={**LLAMA.inside, "sinks": ("self_attn.sinks",)},
    router=("mlp.router",),
    fused={stem: (f"mlp.experts.{stem}_proj",) for stem in ("gate_up", "down")},
    transposed=frozenset(("gate_up", "down")),
    bare=frozenset(("sinks",)),
)


def renamed(names: Names, **inside: str | tuple[str, ...]) -> Names:
    """A family's names with some parts of a layer called otherwise."""
    changed = {stem: (part,) if isinstance(part, str) else part for stem, part in inside.items()}
    return replace(names, inside={**names.inside, **changed})
