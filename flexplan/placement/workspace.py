"""Workspace: what the kernels of one task allocate beside the arenas, at most.

Counted from the layer maths as the runtime computes it: the results that live at the same time.  Letters as there:
D hidden, Q and K the widths of queries and of keys, F feed-forward, E embedding; numbers of one token.
"""

from __future__ import annotations

from math import ceil

from flexplan.cost import window_parts
from flexplan.model import ModelShape

PROMPT_TOKENS = 8192  # that a layer computes at once: products of so many rows are as fast as larger ones
_FLOAT = 4  # bytes: sampling and choosing compute in float32
_UNPACKED_BYTES = 32 << 20  # keys and values that choosing unpacks, or takes to float32, at a time


def workspace_bytes(s: ModelShape, rows: int, prompt_len: int, context: int, sparsity: float = 1.0) -> int:
    """Of a micro-batch of ``rows`` prompts that decodes up to ``context`` positions."""
    together, element = rows_at_once(rows, prompt_len), s.bytes_per_element
    per_token = max(_embedding(s), _layer(s))
    mask = together * prompt_len**2 * 2 * element  # of padded prompts, as numbers; see `mask_bytes` for itself
    if s.windows or s.odd_scores:  # and one of the layer's own, with what it is made of
        mask += 3 * together * prompt_len**2
    mask += _scored(s, rows * s.num_heads * max(context, prompt_len))
    head = rows * s.vocab_size * (element + _FLOAT)
    return max(together * prompt_len * per_token * element + mask, head, _choosing(s, rows, context, sparsity))


def door_workspace_bytes(s: ModelShape, rows: int, tokens: int, longest: int) -> int:
    """Of a rolling schedule's pass: ``tokens`` of newcomers, each attending to its own, and decoding of ``rows``.

    One by one attend to up to ``longest`` tokens: with a window or by odd scores, by a mask and what that is made of.
    """
    per_token, element = max(_embedding(s), _layer(s)), s.bytes_per_element
    pairs = max(_masked_pairs(s, depth, longest) for depth in range(s.layer_period))
    mask = pairs * (3 if s.odd_scores else 3 + 2 * element)  # kernels take it as numbers, beside it
    at_door = tokens * per_token * element + mask + _scored(s, s.num_heads * longest**2)
    return max(at_door, rows * per_token * element, rows * s.vocab_size * (element + _FLOAT))


def _masked_pairs(s: ModelShape, depth: int, length: int) -> int:
    """Pairs of positions of a prompt that attend by one mask of layer ``depth``; 0 where it needs none."""
    window = s.window(depth)
    if not s.odd_scores and not 0 < window < length:
        return 0
    parts = window_parts(length, window, odd=s.odd_scores)
    return max((end - first) * (end - lowest) for first, end, lowest in parts)


def captured_bytes(s: ModelShape, rows: int, context: int, sparsity: float = 1.0) -> int:
    """Of decoding steps that are captured to be replayed: what a layer, choosing and the head leave stays theirs."""
    left = rows * (_layer(s) + s.vocab_size) * s.bytes_per_element
    return left + _choosing(s, rows, context, sparsity) + _scored(s, rows * s.num_heads * context)


def _scored(s: ModelShape, scores: int) -> int:
    """What scores take that no kernel knows: a block of them in float32, weights and masks beside."""
    return min(4 * _FLOAT * scores * 2, 6 * _UNPACKED_BYTES) if s.odd_scores else 0


def rows_at_once(rows: int, prompt_len: int) -> int:
    """Prompts of a micro-batch that go through a layer together; the others follow, so that workspace stays small."""
    return min(rows, max(1, PROMPT_TOKENS // prompt_len))


def mask_bytes(rows: int, prompt_len: int) -> int:
    """A byte a pair of positions; a micro-batch of padded prompts keeps it as long as it runs."""
    return rows * prompt_len**2


def _layer(s: ModelShape) -> int:
    """Its larger half, and D for holes between results that were freed, too small for the next one."""
    return max(_attention(s), _feed_forward(s)) + s.hidden_size


def _embedding(s: ModelShape) -> int:
    """Rows of the table from two memories and which of them, then positions and their sum; holes as in a layer."""
    return 3 * s.embed_size + 3 * s.hidden_size


def _attention(s: ModelShape) -> int:
    """D + projections, or projections + the answer; turned queries and keys, and one of them being turned, beside."""
    if s.latent:  # queries as they are made, a part of them by head, that times a matrix, both together; keys beside
        made = s.num_heads * (2 * (s.latent.plain + s.latent.turned) + s.latent.size)
        return s.hidden_size + 2 * s.latent.queries + made + 2 * s.q_size + 3 * s.head_dim
    projections = s.q_size + 2 * s.kv_size
    turned = s.q_size + s.kv_size if s.positions == "rotary" else 0
    normed = (s.q_size + s.kv_size) * (2 if s.qk_norm_whole else 1) if s.qk_norm else 0
    return max(s.hidden_size + projections, projections + normed + 2 * turned + s.q_size)


def _feed_forward(s: ModelShape) -> int:
    """The normed + (gate and) up, activated in place + down; attention's result is in its buffer.

    Where both blocks are given the same, what attention found is beside them.
    """
    beside = s.q_size if s.parallel else 0
    block = max(_experts(s), _both(s, s.ffn_size) if s.dense_layers else 0) if s.num_experts else _both(s, s.ffn_size)
    return 2 * s.hidden_size + beside + block


def _both(s: ModelShape, width: int) -> int:
    """Gate and up; where the gate is not activated in its place, three copies more."""
    return (2 + 3 if s.expert_bias else 2 if s.gated else 1) * width


def _experts(s: ModelShape) -> int:
    """All experts at once, and where their tokens are: each token's activated and its results, then their sum.

    Or one by one, where all tokens may be sent to the same: it takes them apart, and its results are added to the
    others'.
    """
    sorted_bytes = 64 * s.experts_per_token  # which expert, which place, and what finding them out takes
    together = s.experts_per_token * (s.expert_width + s.hidden_size) + ceil(sorted_bytes / s.bytes_per_element)
    sums = s.hidden_size * (1 + ceil(_FLOAT / s.bytes_per_element))
    routed = 8 * s.num_experts * ceil(_FLOAT / s.bytes_per_element)  # scores, and what is made of them
    shared = 2 * s.shared_ffn_size + s.hidden_size if s.shared_ffn_size else 0
    return max(together + sums, _both(s, s.expert_width) + 3 * s.hidden_size, shared + s.hidden_size) + routed


def _choosing(s: ModelShape, rows: int, context: int, sparsity: float) -> int:
    """What choosing among old positions takes on the gpu, beside the values that were chosen."""
    if sparsity >= 1:
        return 0
    weights, positions = 3 * s.group_size * _FLOAT, 4 * 8
    values = ceil(sparsity * 2 * s.head_dim * s.bytes_per_element)
    return rows * s.num_kv_heads * context * (weights + positions + values) + _UNPACKED_BYTES
