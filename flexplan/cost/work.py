"""Work: what each task needs of each resource, by the mathematics of the layers and the bytes that move."""

from __future__ import annotations

from functools import lru_cache

from flexplan.graph import NOTHING, Work
from flexplan.model import ModelShape
from flexplan.model.shape import Latent

_AS_IT_LIES = 3  # rows that a host's library multiplies with a matrix as it lies in memory
# Kernels beside products, norms and rotation, with those that a task launches around the layer's own.  A scale more
# than a census: a profile fits ``launch_s`` to what tasks took over these very counts.  Of a layer's count OPT's
# mathematics alone launches 5 of 11, Llama's 32 of 33, Qwen3's 44 of 37.
_PROJECT_KERNELS, _MERGE_KERNELS, _MLP_KERNELS, _HEAD_KERNELS, _EMBED_KERNELS = 3, 2, 2, 4, 4
_ROUTE_KERNELS = 10  # a router by itself: scores, the best of them, their gates, and where both are left
_ROUTER_KERNELS = 20  # of a mixture: which experts a token has, where their tokens lie, and the sum of what they found
# of a mixture, beside a plain product's: its kernel takes each expert's tokens where they lie, at 460 of an H200's 750
# TFLOP/s (benchmarks/experts_together.py)
_EXPERT_FLOPS = 1.6
_GATED_KERNELS, _ACTIVATED_KERNELS = 3, 2  # between the products: activation, the gate's product, one around them
_LATENT_KERNELS = 6  # parts of heads taken apart and put together around products by head
_ROTARY_KERNELS = 19  # sines and cosines of the positions, then a product, a swapped half, its product and a sum, twice
# numbers that pass through memory between products, for each of the width: read and written
_SUMMED = 3  # two read, one written
_TOGETHER = 512  # positions of a prompt at the least that attend together, where a window is shorter
_SCORED = 32  # bytes: scores that kernels do not know are written or read some eight times in float32
_SCORED_KERNELS = 8
_SCORED_ON_HOST = 5  # keys and values there are read, written as float32 (twice their bytes) and read again
_GATED, _ACTIVATED = 5, 2  # the activation in its place, then its product with the other half; the activation alone
_ROTATED = 9  # a product, a swapped half and its product, twice each, and a sum


# -- work of the layer maths: tokens is positions over all rows ---------------------------------------------
# Kernels are counted as the framework's operations.  On CUDA some of a step's run as one; ``launch_s``, measured over
# the same count, is then that much smaller.
def _products(
    s: ModelShape,
    tokens: int,
    per_token: float,
    weights: float,
    moved: float,
    between: float,
    kernels: float,
    products: float = 1,
) -> Work:
    """``per_token`` multiplications; numbers of ``weights``, and of a token those that products and others move."""
    element = s.bytes_per_element
    return Work(
        gpu_flops=2 * tokens * per_token,
        gpu_bytes=(weights + tokens * moved) * element,
        gpu_between_bytes=tokens * between * element,
        gpu_matrix_bytes=weights * element if tokens > _AS_IT_LIES else 0,
        products=products,
        kernels=kernels,
    )


def _normed(s: ModelShape, width: int) -> int:
    """Numbers that a norm reads and writes."""
    return 2 * _norm_kernels(s) * width


def _norm_kernels(s: ModelShape) -> int:
    """A norm's kernels: a root-mean-square one is scaled by another."""
    return 2 if s.norm == "rms" else 1


def layer_work(s: ModelShape, tokens: int) -> Work:
    """A whole layer, attention apart."""
    return project_work(s, tokens).plus(merge_work(s, tokens)).plus(mlp_work(s, tokens))


def project_work(s: ModelShape, tokens: int) -> Work:
    """Norm, the query, key, value projections, rotation, and new keys and values to where they are kept."""
    if s.latent:
        return _latent_project_work(s, s.latent, tokens)
    width = s.q_size + 2 * s.kv_size
    rotary = s.positions == "rotary"
    turned = s.q_size + s.kv_size if rotary else 0
    normed = s.norms_of_a_block - s.added_norm
    between = normed * _normed(s, s.hidden_size) + _ROTATED * turned + 4 * s.kv_size  # keys and values: read, kept
    between += _normed(s, s.q_size + s.kv_size) if s.qk_norm else 0
    norms = normed + (2 if s.qk_norm else 0)
    kernels = norms * _norm_kernels(s) + (_ROTARY_KERNELS if rotary else 0) + _PROJECT_KERNELS
    matrix = s.hidden_size * width
    return _products(s, tokens, matrix, matrix, s.hidden_size + width, between, kernels)


def _latent_project_work(s: ModelShape, a: Latent, tokens: int) -> Work:
    """Norms, what queries and keys are made of and made into, the part of them that turns, what is kept."""
    queries = s.num_heads * (a.plain + a.turned)
    made = a.queries * (s.hidden_size + queries) if a.queries else s.hidden_size * queries
    matrix = made + s.hidden_size * s.head_dim + s.num_heads * a.plain * a.size
    between = _normed(s, s.hidden_size + a.queries + a.size) + 2 * s.q_size + _ROTATED * (s.num_heads + 1) * a.turned
    kernels = (3 if a.queries else 2) * _norm_kernels(s) + _ROTARY_KERNELS + _PROJECT_KERNELS + _LATENT_KERNELS
    moved = s.hidden_size + 2 * a.queries + queries + s.q_size + s.head_dim
    return _products(s, tokens, matrix, matrix, moved, between, kernels, 4)


def prompt_attention_work(s: ModelShape, rows: int, length: int, read: float | None = None) -> Work:
    """Causal attention of a prompt over itself, or over the ``read`` newest tokens of each position."""
    parts = window_parts(length, 0 if read in (None, length) else int(read), odd=s.odd_scores)
    pairs = sum((end - first) * (end - lowest) for first, end, lowest in parts)  # by a mask: all of them
    seen = length**2 / 2 if read in (None, length) else pairs  # kernels leave out what is later
    flops = 4 * s.q_size * rows * seen  # 2 products x 2 operations
    work = Work(gpu_flops=flops, gpu_bytes=2 * rows * length * (s.q_size + s.kv_size) * s.bytes_per_element)
    return work.plus(_scored_work(s, rows * pairs * s.num_heads, rows)) if s.odd_over_prompts else work


def window_parts(length: int, window: int, *, odd: bool = False) -> list[tuple[int, int, int]]:
    """The parts in which a prompt attends: positions ``first .. end`` over those from ``lowest`` on.

    All together, unless the windows are so short that parts, each over what its windows reach, are fewer pairs; or
    scores are ``odd``, so that no kernel leaves out what is later.

    >>> window_parts(2000, 600), window_parts(1000, 600)
    ([(0, 600, 0), (600, 1200, 0), (1200, 1800, 600), (1800, 2000, 1200)], [(0, 1000, 0)])
    >>> window_parts(1200, 0, odd=True)
    [(0, 512, 0), (512, 1024, 0), (1024, 1200, 0)]
    """
    step = max(window, _TOGETHER)
    if not (window or odd) or length < 2 * step:
        return [(0, length, 0)]
    return [
        (first, min(first + step, length), max(0, first - window) if window else 0) for first in range(0, length, step)
    ]


def _scored_work(s: ModelShape, scores: float, times: float = 1) -> Work:
    """What kernels do not know of scores, by the framework's operations over all of them."""
    if not s.odd_scores:
        return NOTHING
    return Work(gpu_between_bytes=_SCORED * scores, kernels=_SCORED_KERNELS * times)


def _is_packed(s: ModelShape, pair_bytes: int) -> bool:
    return pair_bytes != s.vectors_kept * s.head_dim * s.bytes_per_element


def gpu_attention_work(s: ModelShape, grains: int, context: float, pair_bytes: int, sparsity: float = 1.0) -> Work:
    """One query a head over ``context`` positions of ``grains`` (sequence, KV head) pairs on the gpu.

    All keys are read, and of the values the share ``sparsity``.
    """
    read = (1 + sparsity) / 2
    flops = 4 * grains * s.group_size * s.head_dim * context * read
    nbytes = grains * context * pair_bytes * read
    scored = _scored_work(s, grains * s.group_size * context)
    if _is_packed(s, pair_bytes):
        return Work(gpu_packed_bytes=nbytes, kernels=1).plus(scored)
    work = Work(gpu_flops=flops, gpu_bytes=nbytes, kernels=1)
    return work.plus(scored) if s.odd_decoding else work


def chosen_values_work(s: ModelShape, grains: int, context: float, pair_bytes: int, sparsity: float) -> Work:
    """The second half of that, once the keys alone were read (``sparsity`` 0): the values that were chosen."""
    flops = 2 * grains * s.group_size * s.head_dim * context * sparsity
    return Work(gpu_flops=flops, gpu_bytes=grains * context * pair_bytes * sparsity / 2)


def host_attention_work(s: ModelShape, grains: int, context: float, pair_bytes: int, sparsity: float = 1.0) -> Work:
    """The same on the host: what is read, and what each further query head of a KV head adds to computing the first."""
    read = (1 + sparsity) / 2
    nbytes = grains * context * pair_bytes * read
    further = 4 * grains * (s.group_size - 1) * s.head_dim * context * read
    packed, slower = _is_packed(s, pair_bytes), _SCORED_ON_HOST if s.odd_decoding else 1
    return Work(
        attended_bytes=0 if packed else nbytes * slower,
        attended_packed_bytes=nbytes * slower if packed else 0,
        host_bytes=nbytes,
        host_flops=further,
    )


def merge_work(s: ModelShape, tokens: int) -> Work:
    """The output projection of attention, and what it is added to."""
    between, kernels = _added(s)
    if s.latent:  # each head's value, made of what attention found in the vectors that are kept
        values = s.num_heads * s.latent.value
        matrix, moved = values * (s.latent.size + s.hidden_size), s.q_size + 2 * values + s.hidden_size
        return _products(s, tokens, matrix, matrix, moved, between, _MERGE_KERNELS + kernels + _LATENT_KERNELS, 2)
    matrix = s.q_size * s.hidden_size
    return _products(s, tokens, matrix, matrix, s.q_size + s.hidden_size, between, _MERGE_KERNELS + kernels)


def _added(s: ModelShape) -> tuple[int, int]:
    """Numbers that pass through memory, and kernels, where what a block adds is added."""
    normed = _normed(s, s.hidden_size) if s.added_norm else 0
    return _SUMMED * s.hidden_size + normed, _norm_kernels(s) if s.added_norm else 0


def experts_touched(s: ModelShape, tokens: int) -> float:
    """Experts that at least one of ``tokens`` tokens is routed to, if each expert is as likely as another."""
    if not s.num_experts:
        return 1.0
    return s.num_experts * (1 - (1 - s.experts_per_token / s.num_experts) ** tokens)


def experts_work(s: ModelShape, nbytes: int, tokens: int) -> Work:
    """Of ``nbytes`` of a layer's experts those that tokens touch, host to device, if each is as likely as another.

    Routing that is skewed touches fewer: the most wanted ones are wanted by many tokens at a time.
    """
    return up_work(nbytes * touched_share(s, tokens))


def route_work(s: ModelShape, tokens: int) -> Work:
    """A mixture's norm and router, where its experts are sent once they are chosen."""
    matrix, normed = s.num_experts * s.hidden_size, s.norms_of_a_block - s.added_norm
    kernels = normed * _norm_kernels(s) + _ROUTE_KERNELS
    return _products(s, tokens, matrix, matrix, s.hidden_size, normed * _normed(s, s.hidden_size), kernels)


def touched_share(s: ModelShape, tokens: int) -> float:
    """The same as a part of all experts."""
    return experts_touched(s, tokens) / s.num_experts


def mlp_work(s: ModelShape, tokens: int, depth: int = -1, *, routed: bool = False) -> Work:
    """Norm, up (and gate), activation, down and sum of layer ``depth``; of a mixture, the experts that tokens touch.

    ``routed``: its router has chosen them before.
    """
    if s.is_mixture(depth % s.num_layers):
        return _mixture_work(s, tokens, routed=routed)
    matrices = 3 if s.gated else 2
    matrix = matrices * s.hidden_size * s.ffn_size
    moved = 2 * s.hidden_size + matrices * s.ffn_size
    activated = (_GATED if s.gated else _ACTIVATED) * s.ffn_size
    normed, (added, kernels) = s.norms_of_a_block - s.added_norm, _added(s)
    between = normed * _normed(s, s.hidden_size) + activated + added
    kernels += normed * _norm_kernels(s) + _MLP_KERNELS + (_GATED_KERNELS if s.gated else _ACTIVATED_KERNELS)
    return _products(s, tokens, matrix, matrix, moved, between, kernels, 2)


def _mixture_work(s: ModelShape, tokens: int, *, routed: bool) -> Work:
    """Two products for all experts, into and out of the activated; between them lie the router and the sum."""
    each, matrix = s.experts_per_token, (3 if s.gated else 2) * s.hidden_size * s.expert_width
    always = (3 if s.gated else 2) * s.hidden_size * s.shared_ffn_size
    always += 0 if routed else s.num_experts * s.hidden_size
    per_token, weights = _EXPERT_FLOPS * matrix * each + always, matrix * experts_touched(s, tokens) + always
    moved = 2 * each * (s.hidden_size + s.expert_width) + 4 * s.shared_ffn_size
    normed, (added, kernels) = s.norms_of_a_block - s.added_norm, _added(s)
    between = normed * _normed(s, s.hidden_size) + each * s.hidden_size + added
    kernels += normed * _norm_kernels(s) + _MLP_KERNELS + _ROUTER_KERNELS - (_ROUTE_KERNELS if routed else 0)
    kernels += _MLP_KERNELS + _GATED_KERNELS if s.shared_ffn_size else 0
    return _products(s, tokens, per_token, weights, moved, between, kernels, 3)


def head_work(s: ModelShape, rows: int) -> Work:
    """Logits of the last positions, and the tokens chosen by them."""
    matrix = s.vocab_size * s.embed_size
    moved, kernels = s.hidden_size + s.vocab_size, _norm_kernels(s) + _HEAD_KERNELS
    return _products(s, rows, matrix, matrix, moved, 0, kernels)._replace(samples=1)


def embed_work(s: ModelShape, tokens: int) -> Work:
    """Rows of the token table into hidden states."""
    normed = _normed(s, s.hidden_size) if s.embed_norm else 0
    return Work(
        gpu_bytes=2 * tokens * s.hidden_size * s.bytes_per_element,
        gpu_between_bytes=tokens * normed * s.bytes_per_element,
        kernels=_EMBED_KERNELS + (_norm_kernels(s) if s.embed_norm else 0),
    )


_shared = lru_cache(maxsize=4096)  # equal works are one object


def unpack_work(stored_bytes: float, unpacked_bytes: float) -> Work:
    """A layer's weights unpacked, or copied where they are not packed: read once, written once."""
    return Work(gpu_bytes=stored_bytes + unpacked_bytes)


# -- work of moving bytes --------------------------------------------------------------------------------------
@_shared
def up_work(nbytes: float) -> Work:
    """Host to device."""
    return Work(up_bytes=nbytes, host_bytes=nbytes)


@_shared
def down_work(nbytes: float) -> Work:
    """Device to host."""
    return Work(down_bytes=nbytes, host_bytes=nbytes)


@_shared
def read_work(nbytes: float) -> Work:
    """Disk to host."""
    return Work(read_bytes=nbytes, host_bytes=nbytes)


@_shared
def write_work(nbytes: float) -> Work:
    """Host to disk."""
    return Work(write_bytes=nbytes, host_bytes=nbytes)


@_shared
def copy_work(nbytes: float) -> Work:
    """Host to host: read and written."""
    return Work(host_bytes=2 * nbytes)


@_shared
def gpu_copy_work(nbytes: float) -> Work:
    """Device to device: read and written."""
    return Work(gpu_between_bytes=2 * nbytes, kernels=1)
