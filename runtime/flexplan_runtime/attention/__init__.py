"""Attention wherever keys and values live.

cache_views  Bytes of the cache as keys and values: by grain and by token.
dense        Attention of a prompt, and of one token over grains wherever they live.
host         Attention on the host over memory that stays where it is: what is found out once.
packed       Attention of one token over a packed cache, wherever it lies.
prompts      Attention of prompts over themselves, by what a layer makes of scores.
ring         A cache whose columns are a ring, in the order of places.
scored       Attention with scores that the kernels do not know: caps, sinks, slopes.
sparse       Attention of one token that reads only the values with the largest weights.
"""

from flexplan_runtime.attention.cache_views import (
    by_grain,
    by_token,
    disk_pair_bytes,
    grain_rows,
    pairs_of,
    put_grains,
    split_by_home,
    token_rows,
    value_rows,
)
from flexplan_runtime.attention.dense import decode_attention, prompt_attention, prompt_mask
from flexplan_runtime.attention.host import HostAttention
from flexplan_runtime.attention.packed import decode_attention_packed
from flexplan_runtime.attention.prompts import attention_by_rule
from flexplan_runtime.attention.scored import (
    attention_weights,
    scored_attention,
    scored_prompt_attention,
    weighted_values,
)
from flexplan_runtime.attention.sparse import choose, sparse_attention

__all__ = [
    "HostAttention",
    "attention_by_rule",
    "attention_weights",
    "by_grain",
    "by_token",
    "choose",
    "decode_attention",
    "decode_attention_packed",
    "disk_pair_bytes",
    "grain_rows",
    "pairs_of",
    "prompt_attention",
    "prompt_mask",
    "put_grains",
    "scored_attention",
    "scored_prompt_attention",
    "sparse_attention",
    "split_by_home",
    "token_rows",
    "value_rows",
    "weighted_values",
]
