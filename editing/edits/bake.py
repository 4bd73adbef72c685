"""Writing an edit into the weights, and taking it out again to the last bit."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import MechinterpError
from ...models.model import Model
from ...runs.hashing import short, tensor_hash
from .weights import WeightChange

Place = tuple[str, int]
"""(matrix, layer)."""


class Undo:
    """The way back from a baked edit: the matrices as they were, and their hashes before and after."""

    def __init__(
        self, model: Model, backup: dict[Place, Float[Tensor, "_d_in _d_out"]], written: dict[Place, str]
    ) -> None:
        self._model = model
        self._backup: dict[Place, Tensor] | None = backup
        self._written = written

    @property
    def done(self) -> bool:
        """Whether it has been undone."""
        return self._backup is None

    def undo(self) -> None:
        """Restore the exact bytes from before the edit.

        Raises:
            MechinterpError: undone before, or the weights are not as the edit left them (another edit was
                baked on top and must be undone first; nothing is changed then).
        """
        if self._backup is None:
            raise MechinterpError("this edit has been undone already")
        for place, written in self._written.items():
            found = tensor_hash(self._model.layout.mlp_matrix(*place))
            if found != written:
                raise MechinterpError(
                    f"the weights of layer {place[1]} of {self._model.name} have changed since the edit was "
                    f"baked (hash {short(found)}, it left {short(written)}); undo later edits first, the "
                    "last one before the others"
                )
        with self._model.alone(), torch.no_grad():
            for place, before in self._backup.items():
                self._model.layout.mlp_matrix(*place).copy_(before)
        for place, before in self._backup.items():
            if tensor_hash(self._model.layout.mlp_matrix(*place)) != tensor_hash(before):
                raise MechinterpError(f"the weights of layer {place[1]} of {self._model.name} could not be restored")
        self._backup = None


def bake(change: WeightChange, model: Model) -> Undo:
    """Add a change to the weights in place; all matrices, or none when something is wrong.

    The sum is taken in float32 or finer and rounded once to the precision of the weights.
    """
    if model.is_unchanged:
        raise MechinterpError(
            f"{model.name} is in use by something that holds its weights unchanged; bake the edit when that has ended"
        )
    backup: dict[Place, Tensor] = {}
    edited: dict[Place, Tensor] = {}
    for place, factors in change.factors.items():
        weight, delta = model.layout.mlp_matrix(*place), factors.dense
        finer = torch.promote_types(weight.dtype, delta.dtype)
        backup[place] = weight.detach().clone()
        edited[place] = (weight.detach().to(finer) + delta.to(weight.device, finer)).to(weight.dtype)
    with model.alone(), torch.no_grad():
        for place, weight in edited.items():
            model.layout.mlp_matrix(*place).copy_(weight)
    return Undo(model, backup, {place: tensor_hash(weight) for place, weight in edited.items()})
