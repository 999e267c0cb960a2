"""Keys and values in pages: where each of them lies, as the kernel is told.

Letters as in `attention`, and I the tokens of a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pages:
    """Page i of a row holds its tokens from ``i x page_tokens`` on.

    ``addresses_2RI`` (int64) are those of keys and of values of the first token of each page, for a row's first KV
    head; its other heads lie ``head_bytes`` apart, tokens of a page ``token_bytes``.  A row may have its own pages, or
    all grains may be heads of one row.  ``memory`` is what the addresses belong to, ``tokens`` what a row has room for.
    """

    addresses_2RI: Tensor
    page_tokens: int
    heads: int
    head_bytes: int
    token_bytes: int
    memory: tuple[Tensor, ...]
    tokens: int

    @classmethod
    def of(cls, pages: Sequence[Tensor]) -> Pages:
        """Pages (G, 2, I, H) of all grains together, in any strides that all share; only the last may hold fewer."""
        first = pages[0]
        assert all(page.stride() == first.stride() for page in pages), "pages are laid out alike"
        assert all(page.shape == first.shape for page in pages[:-1]), "full pages are equally large"
        size, (grain, half, token, _) = first.element_size(), first.stride()
        keys = torch.tensor([page.data_ptr() for page in pages], dtype=torch.int64)
        addresses = torch.stack([keys, keys + half * size])[:, None].contiguous()
        tokens, heads = sum(page.shape[2] for page in pages), max(1, first.shape[0])
        return cls(addresses, max(1, first.shape[2]), heads, grain * size, token * size, tuple(pages), tokens)

    @property
    def layout(self) -> tuple[int, ...]:
        """Rows, pages, tokens of a page, heads, and strides of heads and tokens in bytes."""
        return (*self.addresses_2RI.shape[1:], self.page_tokens, self.heads, self.head_bytes, self.token_bytes)
