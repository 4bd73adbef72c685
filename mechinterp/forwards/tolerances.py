"""How far two computations of the same may differ: the tolerances that rounding sets, each with its reason."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

ANOTHER_ORDER = 2000
"""Steps of the last digit (eps) by which logits may differ that were computed in another order: sums over thousands of
products, through dozens of layers, each of which may round differently for another batch."""

IN_PARTS = 100
"""The same for logits of the same final states, made a part of the vocabulary at a time: one sum of a few thousand
products.  Tighter, because it has to tell a forgotten soft cap from rounding."""

HALF = 1e-2
"""By size, where weights have 16 bits: some architectures then compute norms and attention in float32 and others do
not, so that steps of the dtype say little."""


SINGLE_INSIDE = 1e-6
"""By size, in double precision: some architectures compute norms and attention in float32 whatever their weights."""


def same_logits(
    found: Float[Tensor, "*logits"],
    expected: Float[Tensor, "*logits"],
    *,
    dtype: torch.dtype,
    steps: int = ANOTHER_ORDER,
    at_least: float = 0.0,
) -> bool:
    """Whether two computations of the same logits differ by no more than rounding explains, by their largest size.

    Args:
        found: by the way that is tried.
        expected: by the whole model.
        dtype: the model's; what is compared may have been made wider.
        steps: of the last digit that are allowed.
        at_least: a tolerance that is never gone below.
    """
    tolerance = HALF if dtype.itemsize < 4 else max(steps * torch.finfo(dtype).eps, at_least)
    return bool((found - expected).abs().max() <= tolerance * (1 + expected.abs().max()))
