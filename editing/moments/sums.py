"""What a collection has added up so far: Σ k kᵀ and Σ ‖k‖⁴ of its own batches, and the counts of everybody's.

Keys that tower over all others are counted, and added at the median length (`towering.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ...models.model import Model
from ...runs.hashing import TextHash
from ...runs.ranks import Ranks
from .running_text import TextBatch


@dataclass
class Sums:
    """Sums in float64; they grow by whole batches, so memory does not depend on the amount of text.

    Args:
        products: Σ k kᵀ by layer.
        fourth: Σ ‖k‖⁴ by layer.
        bounds: the norm above which a key is shortened, by layer; infinite: none is.
        shortened: how many were, by layer.
        towering: the multiple of the median that the bounds are; None: there are none.
        tokens: keys in the sums of all processes together; likewise below.
        documents: texts.
        texts: their fingerprint.
    """

    products: dict[int, Float64[Tensor, "d_mlp d_mlp"]]
    fourth: dict[int, Float64[Tensor, ""]]
    bounds: dict[int, float]
    shortened: dict[int, Int64[Tensor, ""]]
    towering: float | None = None
    tokens: int = 0
    documents: int = 0
    texts: TextHash = field(default_factory=TextHash)

    @staticmethod
    def zero(
        model: Model, layers: Sequence[int], bounds: Mapping[int, float] | None = None, towering: float | None = None
    ) -> Sums:
        """Nothing yet, on the model's device (main memory for mps, which has no float64)."""
        place = torch.device("cpu") if model.device.type == "mps" else model.device
        size = model.d_mlp
        return Sums(
            {layer: torch.zeros(size, size, dtype=torch.float64, device=place) for layer in layers},
            {layer: torch.zeros((), dtype=torch.float64, device=place) for layer in layers},
            dict.fromkeys(layers, math.inf) | dict(bounds or {}),
            {layer: torch.zeros((), dtype=torch.int64, device=place) for layer in layers},
            towering,
        )

    def add(self, keys: dict[int, Float[Tensor, "token d_mlp"]]) -> None:
        """Add the keys of a batch of this process."""
        for layer, found in keys.items():
            exact = found.to(self.products[layer])
            length = exact.norm(dim=-1, keepdim=True)
            over = length > self.bounds[layer]
            if self.towering is not None and bool(over.any()):
                exact = torch.where(over, exact * (self.bounds[layer] / self.towering / length), exact)
                self.shortened[layer] += over.sum()
            self.products[layer].addmm_(exact.T, exact)
            self.fourth[layer] += exact.square().sum(-1).square().sum()

    def count(self, batch: TextBatch) -> None:
        """Count a batch, whichever process adds its keys."""
        self.tokens += sum(len(ids) for _, ids in batch)
        self.documents += len(batch)
        for text, _ in batch:
            self.texts.add(text)

    def fold(self, me: Ranks, *, into_all: bool = False) -> None:
        """Bring the sums of all processes together in the first (or in all, at the end); the others go on from 0."""
        for tensor in (*self.products.values(), *self.fourth.values(), *self.shortened.values()):
            me.sum_(tensor)
            if not (me.is_first or into_all):
                tensor.zero_()

    def average(self, layer: int) -> Float64[Tensor, "d_mlp d_mlp"]:
        """C of one layer, in main memory; its sum is used up."""
        mean = self.products[layer].div_(self.tokens)
        return ((mean + mean.T) / 2).cpu()  # rounding leaves the two halves a bit apart; solvers read one of them
