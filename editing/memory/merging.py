"""Merging several changes of one matrix: TIES (Yadav et al. 2023), and the parts of it on their own.

Trim each change to its largest entries, elect the sign of the weighted sum entry by entry, and average those that
agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def trimmed(change: Float[Tensor, "*shape"], density: float) -> Float[Tensor, "*shape"]:
    """The share `density` of the entries that are largest, and 0 in place of the others."""
    kept = int(density * change.numel())
    flat, best = torch.zeros_like(change).flatten(), change.abs().flatten().float().topk(kept).indices
    flat[best] = change.flatten()[best]
    return flat.view(change.shape)


def ties(
    changes: Float[Tensor, change * shape],
    weights: Sequence[float],
    *,
    density: float = 1.0,
    elect: bool = True,
    average: bool = True,
) -> Float[Tensor, "*shape"]:
    """One change of several.

    Args:
        changes: ΔW of each.
        weights: of each.
        density: share of each one's entries that are kept.
        elect: leave out those of another sign than the weighted sum (that of a zero sum is plus).
        average: divide by the sum of the weights that took part, 1 where none did; without `elect`, of all.
    """
    scale = changes.new_tensor(list(weights)).view(-1, *[1] * (changes.ndim - 1))
    kept = torch.stack([trimmed(one, density) for one in changes]) * scale
    if not elect:
        return kept.sum(0) / (scale.sum() if average else 1.0)
    sign = torch.where(kept.sum(0) < 0, -1.0, 1.0)
    agree = kept.sign() == sign
    parts = (scale * agree).sum(0)
    total = (kept * agree).sum(0)
    return total / torch.where(parts == 0, 1.0, parts) if average else total
