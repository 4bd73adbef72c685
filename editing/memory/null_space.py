"""Directions of key space that text hardly uses: a change within them disturbs hardly anything (AlphaEdit).

P = U₀U₀ᵀ, U₀ the eigenvectors of C whose eigenvalues are small.  Most directions are small ones, so the few that are
not are kept instead: P = I − UᵣUᵣᵀ.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ..moments.moments import SecondMoment

RULES = ("absolute", "share")


@dataclass(frozen=True, eq=False)
class NullSpace:
    """A projection onto the rarely used directions of one layer's keys.

    Args:
        used: an orthonormal basis of the directions that are left alone.
    """

    used: Float64[Tensor, "direction d_mlp"]

    @staticmethod
    def of(moments: SecondMoment, threshold: float, rule: str = "share") -> NullSpace:
        """The null space of a second moment.

        Args:
            moments: C, as it was collected: a repair plays no part, since nothing is inverted.
            threshold: what counts as small.
            rule: "absolute": eigenvalues below `threshold`, as the published code has it (2e-2), whatever the scale of
                the model's keys; "share": the smallest eigenvalues that together carry at most this share of the trace
                of C, the same on every scale.

        Raises:
            UsageError: an unknown rule, or a threshold outside its range.
            MechinterpError: no direction is left, or every one is.
        """
        if rule not in RULES:
            raise UsageError(f"{rule!r} is no rule for a null space; choose one of {', '.join(RULES)}")
        if not threshold > 0 or (rule == "share" and threshold >= 1):
            raise UsageError(f"the threshold of the null space is {threshold:g}; give one above 0 (a share: below 1)")
        values, vectors = moments.eigenvectors
        values = values.clamp_min(0)
        small = values < threshold if rule == "absolute" else values.cumsum(0) <= threshold * values.sum()
        free = int(small.sum())
        if free in (0, len(values)):
            what = "no direction" if free == 0 else "every direction"
            raise MechinterpError(
                f"with the threshold {threshold:g} ({rule}) {what} of layer {moments.layer} is in the null space (its "
                f"eigenvalues go from {float(values[0]):.2g} to {float(values[-1]):.2g}); choose another threshold"
            )
        return NullSpace(vectors[:, ~small].T.contiguous())

    @staticmethod
    def everything(d_mlp: int) -> NullSpace:
        """P = I: every direction is free (an ablation, with which AlphaEdit is plain ridge regression)."""
        return NullSpace(torch.zeros(0, d_mlp, dtype=torch.float64))

    @property
    def dimension(self) -> int:
        """How many directions are free."""
        return int(self.used.shape[1] - self.used.shape[0])

    def project(self, keys: Float64[Tensor, "*key d_mlp"]) -> Float64[Tensor, "*key d_mlp"]:
        """P k."""
        return keys - (keys @ self.used.T) @ self.used
