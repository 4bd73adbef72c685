"""MEND's network: gradients of an edit, factored, go in, and the factors of a change come out (Mitchell et al. 2022).

    z = [norm(u); norm(δ)],        h ← h + max(0, s ⊙ (U V h + b) + o)   twice,        ΔW = α Σ_t ũ_tᵀ δ̃_t

U begins at 0, so each layer begins as the identity; the rectifier stands on both layers, and lets the gradient pass at
0.  All matrices of one shape share U, V and b; s, o and α belong to one matrix each.  The change is *added*: a positive
α with the identity climbs the loss, so a network learns the sign, or begins with a negative α.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.model import Model
from ..gradients.signals import Spread
from .capture import Captured, Place, captured, tried
from .labelled import Labelled
from .network import Losses, Sides, parameters_in, shape_of, spreads_in, spreads_out

_LAYERS = 2
NORM_EPS = 1e-7
"""Added to the spread of a coordinate, as published."""


@dataclass(eq=False)
class MendNetwork:
    """The network and what it knows of the vectors it has seen.

    Args:
        places: the matrices, in the order in which they are counted: that decides the row of s, o and α, and in which
            order statistics move while training.
        parameters: by name.
        spreads: shape -> running mean and spread of [u; δ]; one for all matrices of a shape.
        normalise: whether u and δ are normalised.
    """

    places: tuple[Place, ...]
    parameters: dict[str, Tensor]
    spreads: dict[str, Spread]
    normalise: bool = True

    @staticmethod
    def new(
        model: Model, places: Sequence[Place], rank: int, alpha: float, seed: int, *, normalise: bool = True
    ) -> MendNetwork:
        """At its beginning: V standard normal, all else the identity."""
        kind = torch.float64 if model.dtype == torch.float64 else torch.float32
        random = torch.Generator().manual_seed(seed)
        found: dict[str, Tensor] = {"alpha": torch.full((len(places),), alpha, dtype=kind)}
        shapes = [shape_of(model, place) for place in places]
        for shape in dict.fromkeys(shapes):
            width, modes = sum(map(int, shape.split("x"))), shapes.count(shape)
            low = min(rank, width)
            for layer in range(_LAYERS):
                name = f"{shape}/layer{layer}"
                found[f"{name}/U"] = torch.zeros(width, low, dtype=kind)
                found[f"{name}/V"] = torch.randn(low, width, generator=random, dtype=torch.float64).to(kind)
                found[f"{name}/b"] = torch.zeros(width, dtype=kind)
                found[f"{name}/s"] = torch.ones(modes, width, dtype=kind)
                found[f"{name}/o"] = torch.zeros(modes, width, dtype=kind)
        parameters = {name: tensor.to(model.device).requires_grad_() for name, tensor in found.items()}
        return MendNetwork(tuple(places), parameters, {}, normalise)

    @property
    def state(self) -> dict[str, Tensor]:
        """All of it, as tensors."""
        found = {f"parameter {name}": tensor.detach() for name, tensor in self.parameters.items()}
        return found | spreads_out(self.spreads)

    @staticmethod
    def of_state(places: Sequence[Place], state: Mapping[str, Tensor], *, normalise: bool = True) -> MendNetwork:
        """What `state` was taken of."""
        return MendNetwork(tuple(places), parameters_in(state), spreads_in(state), normalise)

    def sides(self, signals: Mapping[Place, Captured], *, learning: bool = False) -> Sides:
        """Both sides of the change of each matrix.

        Args:
            signals: of the edit.
            learning: let the statistics take the vectors in before they are used, matrix by matrix.
        """
        counted: dict[str, int] = {}
        found: Sides = {}
        for index, place in enumerate(self.places):
            own = signals[place]
            shape = own.shape
            mode = counted[shape] = counted.get(shape, -1) + 1
            h = own.joint
            if self.normalise:
                if learning:
                    joint = h.double()
                    self.spreads[shape] = self.spreads.get(shape, Spread.empty(joint)).joined(joint)
                spread = self.spreads[shape]
                h = (h - spread.mean.to(h)) / (spread.std.to(h) + NORM_EPS)
            for layer in range(_LAYERS):
                h = self._layer(f"{shape}/layer{layer}", h.to(self.parameters["alpha"]), mode)
            u, delta = h[:, : own.u.shape[1]], h[:, own.u.shape[1] :]
            found[place] = (self.parameters["alpha"][index] * u, delta)
        return found

    def _layer(self, name: str, h: Float[Tensor, "token both"], mode: int) -> Float[Tensor, "token both"]:
        own = {what: self.parameters[f"{name}/{what}"] for what in "UVbso"}
        before = (h @ own["V"].T) @ own["U"].T + own["b"]
        return h + (own["s"][mode] * before + own["o"][mode]).clamp(min=0)

    def losses(
        self,
        model: Model,
        edits: Labelled,
        rephrases: Labelled,
        others: Labelled,
        *,
        weights: tuple[float, float],
        learning: bool,
    ) -> Losses:
        """Of the change that some edits get: NLL of their rephrases, and KL of the model on other texts.

        Args:
            model: the model.
            edits: what is to be said.
            rephrases: the same in other words.
            others: texts on which the model should stay as it is.
            weights: of both losses.
            learning: with gradients, and statistics that move.
        """
        signals = captured(model, edits, self.places)
        before = others.logits(model, grad=False)
        with torch.set_grad_enabled(learning):
            sides = self.sides(signals, learning=learning)
            with tried(model, sides):
                said = rephrases.logits(model, grad=learning)
                after = others.logits(model, grad=learning)
            edit, local = rephrases.nll(said), others.kl(before, after)
            total = weights[0] * edit + weights[1] * local
        return Losses(total, float(edit.detach()), float(local.detach()), rephrases.all_said(said.detach()))


def mend_places(model: Model, layers: Sequence[int]) -> tuple[Place, ...]:
    """The matrices of the MLPs of some layers, in the published order: out of the MLP before into it."""
    found: list[Place] = []
    for layer in layers:
        found += [("down", layer), ("up", layer)]
        found += [("gate", layer)] if model.layout.is_gated(layer) else []
    return tuple(found)
