"""Is it enough text?  How the directions C⁻¹k of a panel of keys settle as tokens come in.

An edit goes along C⁻¹k*, so that direction is what must not depend on how much text was read.  It is looked at each
time the number of tokens has doubled.  Were tokens independent, the squared error of the direction would fall as d/N;
between N and 2N tokens it then changes by d/N − d/2N = d/2N, as much as it still lacks at 2N: the cosine between one
look and the next estimates the cosine of the later one with the truth.  (Tokens of a text are not independent, and
texts that are read later may be of another kind: it is an estimate.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...errors import UsageError
from .spectrum import MAX_CONDITION, Spectral, cholesky_solver

_LOW = 0.1
"""Nine keys in ten are at least as settled as `Look.low` says."""


@dataclass(frozen=True)
class Look:
    """A layer's second moment after some tokens.

    Args:
        layer: which layer.
        tokens: how many keys it averages.
        cosine: of C⁻¹k with that of the look before, the median over the panel; NaN at the first look and while C is
            singular.
        low: the same, but the lower decile over the panel.
        effective_rank: exp of the entropy of the normalised eigenvalues (Roy and Vetterli 2007).
        condition: largest over smallest eigenvalue on the units that ever fired.
        units: how many those are.
    """

    layer: int
    tokens: int
    cosine: float
    low: float
    effective_rank: float
    condition: float
    units: int

    def __str__(self) -> str:
        if math.isnan(self.cosine):
            settled = "C⁻¹k has no direction yet" if self.condition > MAX_CONDITION else "first look"
        else:
            settled = f"cosine with half as many tokens {self.cosine:.4f}, nine in ten above {self.low:.4f}"
        return (
            f"layer {self.layer}, {self.tokens:,} tokens: {settled}; effective rank {self.effective_rank:.0f} of "
            f"{self.units} units, condition number {self.condition:.2g}"
        )


class Convergence:
    """Looks at second moments while they are collected; give it to `collect_moments(watch=...)`.

    Args:
        until: stop the collection when nine keys in ten have at least this cosine with the look before, at every
            layer; None: only look.
        keys: the panel by layer, e.g. the keys k* of the facts that are to be edited; default: the keys of the last
            tokens of 64 of the first 256 texts.
        told: called with each look, to show it.

    Raises:
        UsageError: `until` is not between 0 and 1.
    """

    def __init__(
        self,
        *,
        until: float | None = None,
        keys: Mapping[int, Float[Tensor, "key d_mlp"]] | None = None,
        told: Callable[[Look], None] | None = None,
    ) -> None:
        if until is not None and not 0 < until < 1:
            raise UsageError(f"until is {until:g}; give the cosine that is wanted, between 0 and 1 (0.99, say)")
        self.until = until
        self.keys = {layer: panel.double() for layer, panel in (keys or {}).items()}
        self.looks: list[Look] = []
        self.directions: dict[int, dict[int, Float64[Tensor, "key d_mlp"]]] = {}
        self._told = told or (lambda look: None)

    def due(self, tokens: int, units: int) -> bool:
        """Whether the tokens have doubled since the last look; the first is at one token per unit."""
        return tokens >= (2 * self.looks[-1].tokens if self.looks else units)

    @property
    def settled(self) -> bool:
        """Whether at the last look the directions had settled as far as asked, at every layer."""
        last = [look for look in self.looks if look.tokens == self.looks[-1].tokens]
        return self.until is not None and bool(last) and all(look.low >= self.until for look in last)

    def look(self, tokens: int, products: Mapping[int, Float64[Tensor, "d_mlp d_mlp"]]) -> None:
        """Look at sums of k kᵀ over so many tokens (their scale does not matter)."""
        found = []
        for layer, product in products.items():
            solved = self._solve(layer, product)
            before = list(self.directions.get(layer, {}).values())
            settled = (
                _cosines(solved.directions, before[-1]) if before else torch.tensor([math.nan], dtype=torch.float64)
            )
            self._remember(layer, tokens, solved)
            low, middle = settled.nanquantile(_quantiles(settled)).tolist()
            found.append(Look(layer, tokens, middle, low, solved.effective_rank, solved.condition, solved.units))
        self.looks += found
        for one in found:
            self._told(one)

    def end(self, tokens: int, products: Mapping[int, Float64[Tensor, "d_mlp d_mlp"]]) -> None:
        """Keep the final directions, to which `curve` compares; no look, since the tokens have not doubled."""
        for layer, product in products.items():
            if tokens not in self.directions.get(layer, {}):
                self._remember(layer, tokens, self._solve(layer, product))

    def curve(self, layer: int) -> dict[int, Float64[Tensor, " key"]]:
        """Tokens seen -> cosine of each key's C⁻¹k with the final one (NaN while C was singular)."""
        found = self.directions.get(layer, {})
        return {tokens: _cosines(one, found[max(found)]) for tokens, one in found.items()}

    def table(self) -> pd.DataFrame:
        """Long table for figures, a row per layer and number of tokens.

        Columns: layer, tokens; `cosine` and `low` with the look before (NaN at the end of the text); `final_cosine` and
        `final_low` with the final direction; effective_rank, condition, units of the looks.
        """
        looks = {(look.layer, look.tokens): asdict(look) for look in self.looks}
        rows = []
        for layer in sorted(self.directions):
            for tokens, cosines in self.curve(layer).items():
                low, middle = cosines.nanquantile(_quantiles(cosines)).tolist()
                final = {"layer": layer, "tokens": tokens, "final_cosine": middle, "final_low": low}
                rows.append(looks.get((layer, tokens), {}) | final)
        columns = [field.name for field in fields(Look)] + ["final_cosine", "final_low"]
        return pd.DataFrame(rows, columns=columns)

    def state(self) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
        """What a file has to keep of it: tensors and plain figures."""
        tensors: dict[str, Tensor] = {f"panel {layer}": keys for layer, keys in self.keys.items()}
        for layer, found in self.directions.items():
            tensors |= {f"direction {layer} {tokens}": one for tokens, one in found.items()}
        return tensors, [asdict(one) for one in self.looks]

    def restore(self, tensors: Mapping[str, Tensor], looks: list[dict[str, Any]]) -> None:
        """Go on where `state` was taken."""
        self.looks = [Look(**one) for one in looks]
        found = {tuple(name.split()): tensor for name, tensor in tensors.items()}
        self.keys = {int(name[1]): tensor for name, tensor in found.items() if name[0] == "panel"}
        for layer, tokens in sorted((int(name[1]), int(name[2])) for name in found if name[0] == "direction"):
            self.directions.setdefault(layer, {})[tokens] = found["direction", str(layer), str(tokens)]

    def _remember(self, layer: int, tokens: int, solved: _Solved) -> None:
        self.directions.setdefault(layer, {})[tokens] = solved.directions

    def _solve(self, layer: int, product: Float64[Tensor, "d_mlp d_mlp"]) -> _Solved:
        """C⁻¹k on the units that ever fired; no key has a share in the others."""
        live = product.diagonal() > 0
        inner = Spectral()
        inner.matrix = product[live][:, live]
        solve = cholesky_solver(inner.matrix) if inner.condition <= MAX_CONDITION else None
        keys = self.keys[layer].to(product)
        directions = torch.full_like(keys, math.nan if solve is None else 0.0)
        if solve is not None:
            directions[:, live] = solve(keys[:, live].T).T
        return _Solved(directions.cpu(), inner.effective_rank, inner.condition, int(live.sum()))


@dataclass(frozen=True)
class _Solved:
    directions: Float64[Tensor, "key d_mlp"]
    effective_rank: float
    condition: float
    units: int


def _cosines(one: Float64[Tensor, "key d_mlp"], other: Float64[Tensor, "key d_mlp"]) -> Float64[Tensor, " key"]:
    """Row by row; NaN where a row is zero, unlike PyTorch's own."""
    return (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))


def _quantiles(values: Float64[Tensor, " key"]) -> Float64[Tensor, " quantile"]:
    return values.new_tensor([_LOW, 0.5])
