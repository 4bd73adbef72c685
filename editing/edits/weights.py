"""A change of MLP matrices, low-rank or dense: the kind that can be added up, baked into weights and exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor, nn

from ...errors import UsageError
from ...models.layout import DOWN, entering
from ...models.model import Model
from .active import added
from .change import WEIGHTS, Change
from .factors import Factors
from .where import Rows, Where


@dataclass(frozen=True, eq=False)
class WeightChange(Change):
    """ΔW of some MLP matrices.

    Args:
        factors: (matrix, layer) -> its change; the matrix is "down", "up" or "gate" (`layout.MATRICES`), or
            "down-bias", whose input is the constant one.
    """

    kind = "weights"
    acts_on = WEIGHTS

    factors: Mapping[tuple[str, int], Factors]

    @classmethod
    def of_layers(cls, factors: Mapping[int, Factors], matrix: str = DOWN) -> WeightChange:
        """A change of one matrix in some layers."""
        return cls({(matrix, layer): change for layer, change in factors.items()})

    @classmethod
    def joined(cls, changes: Sequence[WeightChange]) -> WeightChange:
        """Several together: those of one matrix side by side."""
        places = dict.fromkeys(place for change in changes for place in change.factors)
        return cls({
            place: Factors.joined([change.factors[place] for change in changes if place in change.factors])
            for place in places
        })  # fmt: skip

    @property
    def tensors(self) -> dict[str, Tensor]:
        sides = {f"{matrix}.{layer}": factors for (matrix, layer), factors in self.factors.items()}
        return {f"{name}.u": own.u for name, own in sides.items()} | {f"{name}.v": own.v for name, own in sides.items()}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        places = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
        found = {}
        for place in places:
            matrix, layer = place.split(".")
            found[matrix, int(layer)] = Factors(tensors[f"{place}.u"], tensors[f"{place}.v"])
        return cls(found)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({layer for _, layer in self.factors}))

    def of(self, layer: int, matrix: str = DOWN) -> Factors | None:
        """The change of one matrix; None where it stays."""
        return self.factors.get((matrix, layer))

    def compact(self) -> WeightChange:
        """The same change with no more terms than each matrix has columns."""
        return WeightChange({place: factors.compact() for place, factors in self.factors.items()})

    def check(self, model: Model, made_for: str = "") -> None:
        for (matrix, layer), change in self.factors.items():
            own = (change.u.shape[1], change.v.shape[1])
            shape = tuple(model.layout.mlp_matrix(matrix, layer).shape)
            if shape != own:
                raise UsageError(
                    f"the edit changes a matrix of shape {own}, but the {matrix}-projection of layer {layer} of "
                    f"{model.name} has the shape {shape}; it belongs to {made_for or 'another model'}"
                )

    @contextmanager
    def on(self, model: Model, where: Where | None = None) -> Iterator[Model]:
        if where is None:
            with added(model, {self.digest: self.factors}):
                yield model
            return
        with (
            ExitStack() as stack
        ):  # in some rows only: to the others, and to `effective_weight`, the weights are as ever
            for (matrix, layer), factors in self.factors.items():
                rows = Rows(model, layer, where, stack)
                projection = model.layout.mlp_projection(matrix, layer)
                stack.callback(projection.register_forward_hook(_adder(rows, matrix, factors)).remove)
            yield model


def _adder(rows: Rows, matrix: str, factors: Factors) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        change = rows.only_meant(factors.apply(entering(matrix, args[0])))
        return output + change.reshape(output.shape).to(output.dtype)

    return add
