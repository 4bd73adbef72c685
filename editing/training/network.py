"""What networks that make edits have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.model import Model
from ..gradients.signals import Spread
from .capture import Place

Sides = dict[Place, tuple[Float[Tensor, "_token _d_in"], Float[Tensor, "_token _d_out"]]]
"""Matrix -> both sides of its change."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Of one step, in nats; `total` has the gradient."""

    total: Float[Tensor, ""]
    edit: float
    local: float
    said: float = 0.0


def shape_of(model: Model, place: Place) -> str:
    """d_in x d_out, in words."""
    return "x".join(str(int(size)) for size in model.layout.mlp_matrix(*place).shape)


def parameters_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of a network's state, ready to learn."""
    prefix = "parameter "
    return {n.removeprefix(prefix): t.clone().requires_grad_() for n, t in state.items() if n.startswith(prefix)}


def spreads_out(spreads: Mapping[str, Spread]) -> dict[str, Tensor]:
    """Statistics as tensors."""
    found: dict[str, Tensor] = {}
    for shape, spread in spreads.items():
        found |= {f"spread {shape} count": torch.tensor(spread.count), f"spread {shape} mean": spread.mean}
        found |= {f"spread {shape} squares": spread.squares}
    return found


def spreads_in(state: Mapping[str, Tensor]) -> dict[str, Spread]:
    """Statistics of a network's state."""
    found = {}
    for shape in [name.split()[1] for name in state if name.startswith("spread ") and name.endswith(" count")]:
        count, mean, squares = (state[f"spread {shape} {what}"] for what in ("count", "mean", "squares"))
        found[shape] = Spread(int(count), mean.clone(), squares.clone())
    return found
