"""An MLP's down-projection as a linear associative memory: recall a value by its key, insert another pair."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import SupportsIndex

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...models.model import Model
from ...public import public
from ..edits.active import effective_weight
from ..moments.moments import SecondMoment

_SMALLEST_COSINE = 1e-6
"""Below this cosine of a key with the update's direction, dividing by it would only amplify rounding."""


@dataclass(frozen=True, eq=False)
class Insertion:
    """The rank-one update that makes a memory answer one key with one value: ΔW = u ⊗ v.

    Args:
        u: unit vector along C⁻¹k, on the side of the keys.
        v: what is added to the value per unit of k'·u.
        residual: v* − recall(k) before the update: what had been missing.
    """

    u: Float64[Tensor, " d_mlp"]
    v: Float64[Tensor, " d_model"]
    residual: Float64[Tensor, " d_model"]

    @property
    def delta(self) -> Float64[Tensor, "d_mlp d_model"]:
        """ΔW, dense."""
        return torch.outer(self.u, self.v)


@dataclass(frozen=True, eq=False)
class LinearMemory:
    """W as a store of key-value pairs, and C = E[k kᵀ] of the keys it is used to.

    Written with keys and values as columns, the trained Ŵ = W minimises ‖ŴK − V‖² over the pairs it has seen,
    whose normal equations are W K Kᵀ = V Kᵀ.  A new pair (k*, v*) is inserted by solving

        minimise ‖ŴK − V‖²   subject to   Ŵk* = v*.

    The Lagrangian ½‖ŴK − V‖² − Λᵀ(Ŵk* − v*) is stationary where Ŵ K Kᵀ = V Kᵀ + Λ k*ᵀ.  Subtracting the
    normal equations leaves (Ŵ − W) K Kᵀ = Λ k*ᵀ, so with C ∝ K Kᵀ the scale goes into Λ and

        Ŵ = W + Λ (C⁻¹k*)ᵀ,      Λ = (v* − Wk*) / (k*ᵀ C⁻¹ k*)

    (Meng et al. 2022, eq. 2 and App. A): a rank-one change whose column space is the one thing that was
    missing, and which every key orthogonal to k* under C⁻¹ does not notice.  A bias b is a constant: v* − b
    takes the place of v*.

    Args:
        weight: W with keys as rows (values = k @ W + b).
        bias: b, or None.
        moments: C.
    """

    weight: Float[Tensor, "d_mlp d_model"]
    bias: Float[Tensor, " d_model"] | None
    moments: SecondMoment

    def __post_init__(self) -> None:
        if self.moments.matrix.shape[0] != self.weight.shape[0]:
            raise UsageError(
                f"the memory has {self.weight.shape[0]} units, but its second moment {self.moments.matrix.shape[0]}"
            )

    @staticmethod
    @public
    def of(model: Model, layer: SupportsIndex, moments: SecondMoment, *, force: bool = False) -> LinearMemory:
        """The down-projection of one layer, with the edits that are on at the moment.

        Raises:
            UsageError: the moments are of another layer or (unless `force`) another model, or are none.
        """
        if not isinstance(moments, SecondMoment):
            raise UsageError(f"{moments!r:.80} is no second moment; read a file with SecondMoment.load(path)")
        index = model.layout.check_layer(layer)
        moments.check(model, index, force=force)
        bias = model.layout.down_bias(index)
        return LinearMemory(effective_weight(model, index), None if bias is None else bias.detach(), moments)

    def recall(self, keys: Float[Tensor, "*n d_mlp"]) -> Float64[Tensor, "*n d_model"]:
        """The values the memory answers with, in float64."""
        values = keys.double() @ self.weight.double()
        return values if self.bias is None else values + self.bias.double()

    def insert(
        self,
        key: Float[Tensor, " d_mlp"],
        value: Float[Tensor, " d_model"],
        *,
        along: Float[Tensor, " d_mlp"] | None = None,
    ) -> Insertion:
        """The update after which `recall(key)` is `value`.

        Args:
            key: k*.
            value: v*, bias included.
            along: another key whose C⁻¹k gives the direction u; default: `key`, which is the solution above.
                The published ROME implementation takes the mean key over contexts here and the key of the
                bare prompt as `key`, and so writes v* exactly only for the bare prompt (Gupta et al. 2024,
                arXiv 2403.07175).

        Raises:
            MechinterpError: the key is (nearly) orthogonal to the direction, so no update of it can reach the
                value.
        """
        direction = self.moments.solve(key if along is None else along)
        length = direction.norm()
        exact = key.double().to(direction.device)
        overlap = exact @ direction
        if not bool(overlap.abs() > _SMALLEST_COSINE * length * exact.norm()):
            raise MechinterpError(
                "the key has no component along C⁻¹k, so no rank-one update can make the memory answer it: "
                "the layer's second moment does not know this key (dead units, or texts unlike the prompt)"
            )
        residual = value.double().to(direction.device) - self.recall(key).to(direction.device)
        return Insertion(u=direction / length, v=residual * (length / overlap), residual=residual)

    def inserted(self, insertion: Insertion) -> LinearMemory:
        """The memory after an update."""
        delta = insertion.delta.to(device=self.weight.device, dtype=self.weight.dtype)
        return replace(self, weight=self.weight + delta)
