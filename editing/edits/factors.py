"""A low-rank change of one weight matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...models.door import in_own_precision


@dataclass(frozen=True, eq=False)
class Factors:
    """ΔW = Uᵀ V for a matrix W with its inputs as rows (of a down-projection: keys).

    Args:
        u: the side of the inputs.
        v: the side of the outputs.

    Raises:
        MechinterpError: NaN or infinite entries.
        UsageError: sides of different rank.
    """

    u: Float[Tensor, "_rank d_in"]
    v: Float[Tensor, "_rank d_out"]

    def __post_init__(self) -> None:
        if self.u.shape[0] != self.v.shape[0]:
            raise UsageError(f"the sides of an update have the ranks {self.u.shape[0]} and {self.v.shape[0]}")
        if not bool(torch.isfinite(self.u).all() and torch.isfinite(self.v).all()):
            raise MechinterpError("the update holds NaN or infinite values")

    @staticmethod
    def of_dense(delta: Float[Tensor, "d_in d_out"]) -> Factors:
        """A change that has no factors of its own: U = ΔWᵀ, V = I, which multiply to it exactly; one row is V."""
        if len(delta) == 1:
            return Factors(torch.ones_like(delta[:, :1]), delta.contiguous())
        return Factors(delta.T.contiguous(), torch.eye(delta.shape[1], dtype=delta.dtype, device=delta.device))

    @staticmethod
    def joined(parts: Sequence[Factors]) -> Factors:
        """Several changes of one matrix, side by side, in the precision of the first."""
        first = parts[0]
        return Factors(torch.cat([part.u.to(first.u) for part in parts]), torch.cat([p.v.to(first.v) for p in parts]))

    @property
    def rank(self) -> int:
        """Number of rank-one terms."""
        return int(self.u.shape[0])

    @property
    def dense(self) -> Float[Tensor, "d_in d_out"]:
        """ΔW itself."""
        with in_own_precision():
            return self.u.T @ self.v

    def to(self, dtype: torch.dtype) -> Factors:
        """The same change in another precision."""
        return Factors(self.u.to(dtype), self.v.to(dtype))

    def compact(self) -> Factors:
        """The same change with no more terms than the matrix has columns."""
        return Factors.of_dense(self.dense) if self.rank > self.v.shape[1] else self

    def apply(self, keys: Float[Tensor, "*n d_in"]) -> Float[Tensor, "*n d_out"]:
        """What the change adds to the values of these keys, in the precision of the finer of the two."""
        dtype = torch.promote_types(keys.dtype, self.u.dtype)
        u, v = (side.to(device=keys.device, dtype=dtype) for side in (self.u, self.v))
        return (keys.to(dtype) @ u.T) @ v

    def __or__(self, other: Factors) -> Factors:
        """Both changes together."""
        return Factors.joined([self, other])
