"""Prompts by windows, caps and sinks: the kernel against the framework's operations by a mask.

On a GPU, or with TRITON_INTERPRET=1 wherever Triton is installed.
"""

from __future__ import annotations

import pytest
import torch
from flexplan_runtime.attention import prompt_mask, scored_prompt_attention
from flexplan_runtime.kernels.attention_rule import AttentionRule
from triton_device import DEVICE, DTYPES, MARKS

pytestmark = MARKS

# window, cap, whether there are sinks
RULES = {
    "sinks": (0, None, True),
    "window and sinks": (37, None, True),
    "cap": (0, 3.0, False),
    "all": (5, 2.0, True),
    "one token": (1, None, True),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("length", "heads", "kv_heads", "size"), [(150, 4, 2, 64), (70, 3, 3, 80), (33, 8, 1, 256)])
@pytest.mark.parametrize("name", RULES)
def test_prompts_attend_as_by_the_frameworks_operations(
    name: str, length: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype
) -> None:
    from flexplan_runtime.kernels.prompt_attention import prompt_attention_cuda

    torch.manual_seed(0)
    window, cap, sinking = RULES[name]
    sinks = torch.linspace(-3, 9, heads, device=DEVICE).view(kv_heads, -1) if sinking else None
    rule = AttentionRule(size**-0.5, window, cap, sinks_KP=sinks)
    qkv = torch.randn(3, length, heads + 2 * kv_heads, size, device=DEVICE).to(dtype)
    q, k, v = qkv.split((heads, kv_heads, kv_heads), 2)
    for pads in (torch.tensor([0, 7, length - 1], device=DEVICE), torch.tensor([0], device=DEVICE)):
        found = prompt_attention_cuda(q, k, v, pads, rule).float()
        assert found.isfinite().all()
        mask = prompt_mask(pads, length, window=window)
        wanted = scored_prompt_attention(q, k, v, mask, rule).float()
        for row, pad in enumerate(pads.expand(3).tolist()):
            close = 2e-5 if dtype == torch.float32 else 2e-2
            torch.testing.assert_close(found[row, pad:], wanted[row, pad:], rtol=close, atol=close)
