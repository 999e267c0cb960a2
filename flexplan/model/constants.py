"""ModelConstants: what the mathematics of a model needs beyond the sizes of its `ModelShape`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from flexplan.model.token_rules import TokenRules

RopeType = Literal["linear", "dynamic", "yarn", "longrope", "llama3"]
Dtype = Literal["float32", "float16", "bfloat16"]


class RopeScaling(BaseModel):
    """How rotary frequencies are stretched.

    ``factor`` is read by all but longrope, which has a factor for each pair of a head's elements: the ``short`` ones
    up to the original context, the ``long`` ones beyond it.  ``attention_factor`` multiplies cosines and sines.
    ``original_max_positions``: where dynamic begins to stretch, or the context that the others stretch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: RopeType
    factor: float = 1.0
    original_max_positions: int = 0
    attention_factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()


class Routing(BaseModel):
    """How a router chooses the experts of a token, and what each counts for.

    Scores are a softmax over all experts, or a sigmoid of each; ``in_float``: of logits computed in float32.  Of
    ``groups`` of experts the best ``groups_kept`` take part, by the sum of their ``group_best`` best.  What the chosen
    count for is their scores, scaled to a sum of 1 with ``normalised``, times ``scale``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    score: Literal["softmax", "sigmoid"] = "softmax"
    in_float: bool = False
    normalised: bool = True
    scale: float = 1.0
    groups: int = 1
    groups_kept: int = 1
    group_best: int = 2


class ModelConstants(BaseModel):
    """What the mathematics of a model needs beyond its sizes.

    ``attention_scale`` multiplies the query-key products; ``attention_softcap`` bounds them, c tanh(x / c), and
    ``logits_softcap`` the logits.  ``norm_shift`` is added to the weights of norms, and ``norm_in_float`` says that
    they multiply before the result is rounded to the model's dtype.  ``embed_scale``, ``residual_scale`` and
    ``logits_scale`` multiply token rows, what a block adds, and the logits.
    ``rotary_dim``: so many elements of a head turn, the others stay; None for all.  ``rope_interleaved``: an element
    turns with the next one, not with the one half a head further.  ``rope_local_theta``: the base of
    layers that read a window, where it is another one.  ``alibi_slopes``: what is added to a head's scores a position;
    with ``alibi_rounded`` as bfloat16, and before they are scaled.
    ``swiglu_alpha`` and ``swiglu_limit``: of a gate x sigmoid(alpha x), and where gates and what they multiply end.
    ``dtype`` is the checkpoint's, in which a model computes unless another is asked for.
    ``causal`` is False where the tokens of a prompt see those after them, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    activation: str
    norm_eps: float
    attention_scale: float
    dtype: Dtype = "float16"
    causal: bool = True
    rope_theta: float | None = None
    rope_scaling: RopeScaling | None = None
    rope_local_theta: float | None = None
    rotary_dim: int | None = None
    rope_interleaved: bool = False
    alibi_slopes: tuple[float, ...] = ()
    alibi_rounded: bool = False
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    routing: Routing = Routing()
    swiglu_alpha: float = 1.0
    swiglu_limit: float | None = None
    norm_shift: float = 0.0
    norm_in_float: bool = False
    embed_scale: float = 1.0
    residual_scale: float = 1.0
    logits_scale: float = 1.0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    rules: TokenRules = TokenRules()
