"""Adam for many unknowns at once, each as if it were alone: own learning rate, own moments, leaving when done."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) on rows that start together from zero moments.

    Every operation is elementwise, so a row's course does not depend on which others share the batch.

    Args:
        like: the unknowns, for their shape and precision.
        lr: learning rate of each entry (broadcast).
        weight_decay: added to the gradient as this times the unknown.
    """

    def __init__(
        self, like: Float[Tensor, "fact site width"], lr: Float[Tensor, "fact site 1"], weight_decay: float = 0.0
    ) -> None:
        self._first, self._second = like.detach().new_zeros(like.shape), like.detach().new_zeros(like.shape)
        self._lr, self._weight_decay, self._steps = lr, weight_decay, 0

    def step(
        self, unknown: Float[Tensor, "fact site width"], gradient: Float[Tensor, "fact site width"]
    ) -> Float[Tensor, "fact site width"]:
        """The unknowns after one step."""
        self._steps += 1
        if self._weight_decay:
            gradient = gradient + self._weight_decay * unknown
        self._first.lerp_(gradient, 1 - _BETA1)
        self._second.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
        scale = (self._second.sqrt() / (1 - _BETA2**self._steps) ** 0.5).add_(_EPSILON)
        return unknown - self._lr / (1 - _BETA1**self._steps) * self._first / scale

    def keep(self, rows: Bool[Tensor, " fact"]) -> None:
        """Go on with some of the rows only."""
        self._first, self._second, self._lr = self._first[rows], self._second[rows], self._lr[rows]
