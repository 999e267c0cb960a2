"""`AttentionRule`: what attention makes of the products of queries and keys before it weighs the values.

Letters as in `attention`: G grains (sequence x KV head), P query heads that share a KV head, T tokens; N query heads,
K KV heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AttentionRule:
    """Of one layer: a scale for all, a window, and what few families have and few kernels know.

    ``window``: how many of the newest tokens are read, 0 for all.  ``softcap`` c bounds a score, c tanh(score / c).
    ``slopes_KP`` are added a position (ALiBi); ``sinks_KP`` are scores that take weight and have no value.  Both are
    float32 on the device where attention is computed.  ``rounded``: what slopes add is rounded to bfloat16, counted
    from a row's first token, and added before the scale.  ``same``: keys are values, and wider than kernels take.
    """

    scale: float
    window: int = 0
    softcap: float | None = None
    slopes_KP: Tensor | None = None
    sinks_KP: Tensor | None = None
    rounded: bool = False
    same: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether the kernels know all of it: a window they take for padding."""
        return self.is_plain_but_sinks and self.sinks_KP is None

    @property
    def is_plain_but_sinks(self) -> bool:
        """The same of the host's kernel, which knows sinks, too."""
        return self.softcap is None and self.is_plain_but_scores

    @property
    def is_plain_but_scores(self) -> bool:
        """The same of the kernel for prompts, which knows sinks and caps."""
        return self.slopes_KP is None and not self.same

    def sinks_GP(self, first_grain: int, count: int) -> Tensor | None:
        """The sinks of ``count`` grains, or None."""
        return None if self.sinks_KP is None else _of_grains(self.sinks_KP, first_grain, count)

    def weights(
        self, scores_GPT: Tensor, unread: Tensor, first_grain: int = 0, places_T: Tensor | None = None
    ) -> Tensor:
        """(G, P, T) softmax, 0 where ``unread`` is True, of products of grains ``first_grain ..``; overwrites them.

        ``places_T``: which tokens those are, if not the first T in order.
        """
        places = torch.arange(scores_GPT.shape[2], device=scores_GPT.device) if places_T is None else places_T
        slopes_GP1 = None
        if self.slopes_KP is not None:
            slopes_GP1 = _of_grains(self.slopes_KP, first_grain, len(scores_GPT))[:, :, None]
        if slopes_GP1 is not None and self.rounded:
            begins = places.where(~unread, places.max() + 1).amin(-1, keepdim=True)  # of a ring not in the first column
            scores_GPT.add_(slopes_GP1.bfloat16() * (places - begins))
        scores_GPT.mul_(self.scale)
        if self.softcap is not None:
            scores_GPT.div_(self.softcap).tanh_().mul_(self.softcap)
        if slopes_GP1 is not None and not self.rounded:
            scores_GPT.add_(slopes_GP1 * places)
        scores_GPT.masked_fill_(unread, -torch.inf)
        sinks_GP = self.sinks_GP(first_grain, len(scores_GPT))
        if sinks_GP is None:
            return scores_GPT.softmax(-1)
        sinks_GP1 = sinks_GP[:, :, None].expand(*scores_GPT.shape[:2], 1)
        return torch.cat((scores_GPT, sinks_GP1), dim=-1).softmax(-1)[..., :-1]


def _of_grains(numbers_KP: Tensor, first: int, count: int) -> Tensor:
    """Each grain's numbers, (G, P): grains are sequence after sequence, KV head after KV head."""
    heads = (first + torch.arange(count, device=numbers_KP.device)) % len(numbers_KP)
    return numbers_KP[heads]
