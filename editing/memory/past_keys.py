"""Keys that were inserted before: what later edits of a sequence should leave alone as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PastKeys:
    """The keys of earlier edits, by layer; a value, so that nobody's state changes behind his back.

    What enters the solver is only K_pᵀK_p, so more keys than units are kept as as many rows as there are units: the
    triangular factor of K_p has the same K_pᵀK_p.

    Args:
        keys: layer -> rows, in float64.
    """

    keys: Mapping[int, Float64[Tensor, "_key d_mlp"]] = field(default_factory=dict)

    def of(self, layer: int) -> Float64[Tensor, "_key d_mlp"] | None:
        """The keys of one layer; None where there are none."""
        return self.keys.get(layer)

    def joined(self, more: Mapping[int, Float[Tensor, "_key d_mlp"]]) -> PastKeys:
        """These keys and more."""
        keys = dict(self.keys)
        for layer, rows in more.items():
            new = rows.detach().double()
            old = keys.get(layer)
            both = new if old is None else torch.cat([old, new.to(old.device)])
            keys[layer] = torch.linalg.qr(both, mode="r").R if len(both) > both.shape[1] else both
        return PastKeys(keys)

    def state(self) -> dict[str, Tensor]:
        """What a file keeps of it."""
        return {str(layer): rows for layer, rows in self.keys.items()}

    @staticmethod
    def of_state(state: Mapping[str, Tensor]) -> PastKeys:
        """What `state` was taken of."""
        return PastKeys({int(name): rows for name, rows in state.items()})
