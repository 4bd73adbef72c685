"""How much of a layer an edit changes: next to the weights, and on the text the layer is used to."""

from __future__ import annotations

import math
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from ...models.layout import DOWN
from ...models.model import Model
from ..edits.active import effective_weight
from ..edits.factors import Factors
from ..edits.report import LayerChange
from ..edits.weights import WeightChange
from ..moments.moments import SecondMoment


def weight_changes(model: Model, change: WeightChange, moments: Mapping[int, SecondMoment]) -> tuple[LayerChange, ...]:
    """The size of a change, matrix by matrix.

    Args:
        model: with the edits on that were on when it was made.
        change: the change.
        moments: layer -> second moment of its down-projection's keys; where there is none, or C = I, which stands for
            no text, no disturbance is given.
    """
    found = []
    for (matrix, layer), factors in sorted(change.factors.items(), key=lambda item: (item[0][1], item[0][0])):
        weight = effective_weight(model, layer, matrix)
        found.append(layer_change(layer, weight, factors, moments.get(layer) if matrix == DOWN else None, matrix))
    return tuple(found)


def layer_change(
    layer: int,
    weight: Float[Tensor, "d_in d_out"],
    factors: Factors,
    moments: SecondMoment | None,
    matrix: str = DOWN,
) -> LayerChange:
    """The size of a change of one matrix.

    Args:
        layer: which.
        weight: the matrix before it.
        factors: the change.
        moments: of the matrix' inputs; None, or C = I, which stands for no text: no disturbance is given.
        matrix: its name.
    """
    delta = factors.dense.to(weight.device)
    norm_ratio = float(delta.norm() / weight.to(delta.dtype).norm())
    known = moments is not None and not moments.is_identity
    disturbance = _disturbance(weight, factors, moments) if moments and known else None
    return LayerChange(layer, norm_ratio, disturbance, matrix)


def _disturbance(weight: Float[Tensor, "d_mlp d_model"], factors: Factors, moments: SecondMoment) -> float:
    """Root mean square of what the change adds on the second moment's keys, next to what the layer gives there."""
    second = moments.matrix
    u, v, before = (matrix.to(second) for matrix in (factors.u, factors.v, weight))
    added_power = float(((u @ second @ u.T) * (v @ v.T)).sum())
    return math.sqrt(max(added_power, 0.0) / float((before * (second @ before)).sum()))
