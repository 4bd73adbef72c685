"""How much of a layer an edit changes: next to the weights, and on the text the layer is used to."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from ..edits.factors import Factors
from ..edits.report import LayerChange
from ..moments.moments import SecondMoment


def layer_change(
    layer: int, weight: Float[Tensor, "d_mlp d_model"], factors: Factors, moments: SecondMoment | None
) -> LayerChange:
    """The size of a change.

    Args:
        layer: which.
        weight: the down-projection before it.
        factors: the change.
        moments: the layer's second moment; None, or C = I, which stands for no text: no disturbance is given.
    """
    delta = factors.dense.to(weight.device)
    norm_ratio = float(delta.norm() / weight.to(delta.dtype).norm())
    known = moments is not None and not moments.is_identity
    return LayerChange(layer, norm_ratio, _disturbance(weight, factors, moments) if moments and known else None)


def _disturbance(weight: Float[Tensor, "d_mlp d_model"], factors: Factors, moments: SecondMoment) -> float:
    """Root mean square of what the change adds on the second moment's keys, next to what the layer gives there."""
    second = moments.matrix
    u, v, before = (matrix.to(second) for matrix in (factors.u, factors.v, weight))
    added_power = float(((u @ second @ u.T) * (v @ v.T)).sum())
    return math.sqrt(max(added_power, 0.0) / float((before * (second @ before)).sum()))
