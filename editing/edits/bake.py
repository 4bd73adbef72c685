"""Writing an edit into the weights, and taking it out again to the last bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import MechinterpError
from ...models.model import Model
from ...runs.hashing import short, tensor_hash

if TYPE_CHECKING:
    from .edit import Edit


class Undo:
    """The way back from a baked edit: the matrices as they were, and their hashes before and after."""

    def __init__(
        self, model: Model, backup: dict[int, Float[Tensor, "d_mlp d_model"]], written: dict[int, str]
    ) -> None:
        self._model = model
        self._backup: dict[int, Tensor] | None = backup
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
        for layer, written in self._written.items():
            found = tensor_hash(self._model.layout.down_projection(layer))
            if found != written:
                raise MechinterpError(
                    f"the weights of layer {layer} of {self._model.name} have changed since the edit was "
                    f"baked (hash {short(found)}, it left {short(written)}); undo later edits first, the "
                    "last one before the others"
                )
        with torch.no_grad():
            for layer, before in self._backup.items():
                self._model.layout.down_projection(layer).copy_(before)
        for layer, before in self._backup.items():
            if tensor_hash(self._model.layout.down_projection(layer)) != tensor_hash(before):
                raise MechinterpError(f"the weights of layer {layer} of {self._model.name} could not be restored")
        self._backup = None


def bake(edit: Edit, model: Model, *, force: bool = False) -> Undo:
    """Add the edit to the weights in place; all layers, or none when something is wrong.

    The sum is taken in float32 or finer and rounded once to the precision of the weights.
    """
    edit.check(model, force=force)
    if model.is_unchanged:
        raise MechinterpError(
            f"{model.name} is in use by something that holds its weights unchanged; bake the edit when that has ended"
        )
    backup: dict[int, Tensor] = {}
    edited: dict[int, Tensor] = {}
    for layer in edit.layers:
        weight = model.layout.down_projection(layer)
        delta = edit.delta(layer)
        finer = torch.promote_types(weight.dtype, delta.dtype)
        backup[layer] = weight.detach().clone()
        edited[layer] = (weight.detach().to(finer) + delta.to(weight.device, finer)).to(weight.dtype)
    with torch.no_grad():
        for layer, weight in edited.items():
            model.layout.down_projection(layer).copy_(weight)
    return Undo(model, backup, {layer: tensor_hash(weight) for layer, weight in edited.items()})
