"""What enters each edited matrix at every token, and the gradient of a loss by what leaves it; and changes on trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...models.door import plainly
from ...models.model import Model
from .labelled import Labelled

Place = tuple[str, int]
"""(matrix, layer)."""


@dataclass(frozen=True, eq=False)
class Captured:
    """Of one matrix, at the tokens where both are not zero: ∂L/∂W = Σ_t u_tᵀ δ_t.

    Args:
        u: what enters.
        delta: the gradient by what leaves.
    """

    u: Float[Tensor, "token d_in"]
    delta: Float[Tensor, "token d_out"]

    @property
    def shape(self) -> str:
        """d_in x d_out of the matrix, in words."""
        return f"{self.u.shape[1]}x{self.delta.shape[1]}"

    @property
    def joint(self) -> Float[Tensor, "token both"]:
        """Both side by side."""
        return torch.cat([self.u, self.delta], 1)


@plainly(grad=True)
def captured(model: Model, rows: Labelled, places: Sequence[Place], *, answers: bool = False) -> dict[Place, Captured]:
    """Of the mean NLL of some rows: one forward and one backward for all matrices.

    Args:
        model: the model, with whatever is on.
        rows: the texts.
        places: which matrices.
        answers: only the positions that predict an answer's token, whatever is zero; else all where nothing is.
    """
    zeros: dict[Place, Tensor] = {}
    inputs: dict[Place, Tensor] = {}

    def watch(place: Place):  # type: ignore[no-untyped-def]  # torch fixes the hook's signature
        def see(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs[place] = args[0].detach()
            zeros[place] = torch.zeros_like(output, requires_grad=True)
            return output + zeros[place]

        return see

    with model.alone(), ExitStack() as stack:
        for place in places:
            stack.callback(model.layout.mlp_projection(*place).register_forward_hook(watch(place)).remove)
        loss = rows.nll(rows.logits(model, grad=True))
        gradients = torch.autograd.grad(loss, [zeros[place] for place in places])
    found = {}
    for place, gradient in zip(places, gradients, strict=True):
        u, delta = inputs[place].flatten(0, -2), gradient.flatten(0, -2)
        kept = rows.predicting.flatten() if answers else (u != 0).any(-1) & (delta != 0).any(-1)
        found[place] = Captured(u[kept], delta[kept])
    return found


@contextmanager
def tried(
    model: Model, sides: Mapping[Place, tuple[Float[Tensor, "_rank _d_in"], Float[Tensor, "_rank _d_out"]]]
) -> Iterator[None]:
    """Let ΔW = Uᵀ V be added for the length of a block; gradients flow to both sides."""

    def adder(u: Tensor, v: Tensor):  # type: ignore[no-untyped-def]  # torch fixes the hook's signature
        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + ((args[0].to(u) @ u.T) @ v).to(output.dtype)

        return add

    with model.alone(), ExitStack() as stack:
        for place, (u, v) in sides.items():
            stack.callback(model.layout.mlp_projection(*place).register_forward_hook(adder(u, v)).remove)
        yield
