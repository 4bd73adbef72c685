"""MALMEN's network: keys and gradients at answers go in, one least-squares solve makes the change (Tan et al. 2024).

    z = norm([k; g]),   z ← z + s ⊙ max(0, z A B + b) + o   for each block,   [k̂; ĝ] = z
    D_i = −η (k_i · k̂_i) ĝ_i,   ΔW = (KᵀK + e^λ I)⁻¹ Kᵀ D = Kᵀ (K Kᵀ + e^λ I)⁻¹ D

Unlike MEND's, scale and shift stand outside the rectifier, and only positions that predict an answer's token count.  η
and λ are learnt for each matrix, and so are s and o; A, B and b belong to a shape.  Texts come in mini-batches: each
has a mean loss of its own, and these add up, as published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models.model import Model
from ..gradients.signals import Spread
from .capture import Captured, Place, captured, tried
from .labelled import Labelled
from .network import Losses, Sides, parameters_in, shape_of, spreads_in, spreads_out

FLOAT32_EPS = 1.1920928955078125e-07
"""What the published code adds to spreads and to n − 1, in its float32."""


@dataclass(eq=False)
class MalmenNetwork:
    """The network and what it knows of the vectors it has seen.

    Args:
        places: the matrices, in the order in which they are counted.
        parameters: by name.
        spreads: shape -> running mean and spread of [k; g], counted as published (`Spread`).
        eps: added to spreads and to n − 1.
    """

    places: tuple[Place, ...]
    parameters: dict[str, Tensor]
    spreads: dict[str, Spread]
    eps: float = FLOAT32_EPS

    @staticmethod
    def new(model: Model, places: Sequence[Place], rank: int, blocks: int, lr: float, seed: int) -> MalmenNetwork:
        """At its beginning: A standard normal, B zero, each block the identity, λ = 0."""
        kind = torch.float64 if model.dtype == torch.float64 else torch.float32
        random = torch.Generator().manual_seed(seed)
        found: dict[str, Tensor] = {}
        shapes = [shape_of(model, place) for place in places]
        for shape in dict.fromkeys(shapes):
            width, modes = sum(map(int, shape.split("x"))), shapes.count(shape)
            low = min(rank, width)
            for block in range(blocks):
                name = f"{shape}/blocks/{block}"
                found[f"{name}/A"] = torch.randn(width, low, generator=random, dtype=torch.float64).to(kind)
                found[f"{name}/B"] = torch.zeros(low, width, dtype=kind)
                found[f"{name}/bias"] = torch.zeros(width, dtype=kind)
                found[f"{name}/scale"] = torch.ones(modes, width, dtype=kind)
                found[f"{name}/shift"] = torch.zeros(modes, width, dtype=kind)
            found[f"{shape}/lr"] = torch.full((modes, 1), lr, dtype=kind)
            found[f"{shape}/lamda"] = torch.zeros(modes, 1, dtype=kind)
        return MalmenNetwork(tuple(places), {n: t.to(model.device).requires_grad_() for n, t in found.items()}, {})

    @property
    def state(self) -> dict[str, Tensor]:
        """All of it, as tensors."""
        found = {f"parameter {name}": tensor.detach() for name, tensor in self.parameters.items()}
        return found | spreads_out(self.spreads)

    @staticmethod
    def of_state(places: Sequence[Place], state: Mapping[str, Tensor]) -> MalmenNetwork:
        """What `state` was taken of."""
        return MalmenNetwork(tuple(places), parameters_in(state), spreads_in(state))

    def seen(self, batches: Sequence[Mapping[Place, Captured]]) -> None:
        """Take vectors into the statistics: mini-batch by mini-batch, and in each matrix by matrix."""
        for batch in batches:
            for place in self.places:
                own = batch[place]
                shape, joint = own.shape, own.joint.double()
                self.spreads[shape] = self.spreads.get(shape, Spread.empty(joint)).joined(joint, published=True)

    def out(self, signals: Mapping[Place, Captured]) -> dict[Place, Captured]:
        """k̂ and ĝ of each matrix."""
        counted: dict[str, int] = {}
        found = {}
        for place in self.places:
            own = signals[place]
            mode = counted[own.shape] = counted.get(own.shape, -1) + 1
            spread = self.spreads[own.shape]
            z = (own.joint - spread.mean.to(own.u)) / (spread.std_with(self.eps).to(own.u) + self.eps)
            block = 0
            while f"{own.shape}/blocks/{block}/A" in self.parameters:
                a, b, bias, scale, shift = (
                    self.parameters[f"{own.shape}/blocks/{block}/{name}"]
                    for name in ("A", "B", "bias", "scale", "shift")
                )
                z = z + scale[mode] * (z @ a @ b + bias).clamp(min=0) + shift[mode]
                block += 1
            found[place] = Captured(z[:, : own.u.shape[1]], z[:, own.u.shape[1] :])
        return found

    def sides(self, batches: Sequence[Mapping[Place, Captured]]) -> Sides:
        """Both sides of the change of each matrix, of all mini-batches together."""
        signals = {
            place: Captured(
                torch.cat([batch[place].u for batch in batches]), torch.cat([batch[place].delta for batch in batches])
            )
            for place in self.places
        }
        out, counted = self.out(signals), dict[str, int]()
        found: Sides = {}
        for place, own in signals.items():
            mode = counted[own.shape] = counted.get(own.shape, -1) + 1
            lr, ridge = self.parameters[f"{own.shape}/lr"][mode], self.parameters[f"{own.shape}/lamda"][mode].exp()
            values = -lr * (own.u * out[place].u).sum(1, keepdim=True) * out[place].delta
            identity = torch.eye(len(own.u), dtype=own.u.dtype, device=own.u.device)
            found[place] = (own.u, torch.linalg.solve(own.u @ own.u.T + ridge * identity, values))
        return found

    def losses(
        self,
        model: Model,
        edits: Sequence[Labelled],
        rephrases: Sequence[Labelled],
        others: Sequence[Labelled],
        *,
        weights: tuple[float, float],
        learning: bool,
    ) -> Losses:
        """Of the change that some edits get, each kind of text in mini-batches whose losses add up.

        Args:
            model: the model.
            edits: what is to be said.
            rephrases: the same in other words.
            others: texts whose answers should stay as they are.
            weights: of both losses.
            learning: with gradients, and statistics that move.
        """
        batches = [captured(model, rows, self.places, answers=True) for rows in edits]
        before = [rows.logits(model, grad=False) for rows in others]
        if learning:
            self.seen(batches)
        with torch.set_grad_enabled(learning):
            sides = self.sides(batches)
            with tried(model, sides):
                said = [rows.logits(model, grad=learning) for rows in rephrases]
                after = [rows.logits(model, grad=learning) for rows in others]
            edit = torch.stack([rows.nll(logits) for rows, logits in zip(rephrases, said, strict=True)]).sum()
            apart = [rows.kl(*pair, answers=True) for rows, *pair in zip(others, before, after, strict=True)]
            local = torch.stack(apart).sum()
            total = weights[0] * edit + weights[1] * local
        right = [rows.all_said(logits.detach()) * len(rows.ids) for rows, logits in zip(rephrases, said, strict=True)]
        share = sum(right) / sum(len(rows.ids) for rows in rephrases)
        return Losses(total, float(edit.detach()), float(local.detach()), share)
