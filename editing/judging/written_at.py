"""At which keys a value is written, and what of it then reaches the bare prompt: known before the value is sought."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Float64
from torch import Tensor

from ..moments.moments import SecondMoment
from ..rows.subjects import over_contexts


@dataclass(frozen=True, eq=False)
class WrittenAt:
    """The two keys of a rank-one change ΔW = u ⊗ v.

    Args:
        bare: the bare prompt's key.
        along: the key whose C⁻¹k is the direction u.
        at: the key that answers with v* afterwards.
    """

    bare: Float64[Tensor, " d_mlp"]
    along: Float64[Tensor, " d_mlp"]
    at: Float64[Tensor, " d_mlp"]

    @staticmethod
    def of(keys: Float[Tensor, "context d_mlp"], rule: str) -> WrittenAt:
        """By a rule for keys.

        Args:
            keys: in every context, the bare prompt first.
            rule: one of `KEY_RULES`, or "mixed": along the mean, at the bare prompt's.
        """
        bare = keys[0].double()
        along = over_contexts(keys[None], "mean" if rule == "mixed" else rule)[0]
        return WrittenAt(bare, along, bare if rule == "mixed" else along)

    def ratio(self, moments: SecondMoment) -> float:
        """(k₀·u)/(k·u): the bare prompt's share of the direction, next to that of the key it was taken from."""
        u = moments.solve(self.along)
        return float((self.bare.to(u) @ u) / (self.along.to(u) @ u))

    def missed(self, moments: SecondMoment) -> float:
        """The share of v* − v₀ that will be missing at the bare prompt's key (or will be too much)."""
        u = moments.solve(self.along)
        return abs(1 - float((self.bare.to(u) @ u) / (self.at.to(u) @ u)))
