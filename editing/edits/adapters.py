"""Changes of activations: units added to an MLP, a side memory behind a threshold.

Both are hooks on the plain matrices of an MLP, so that they agree with an edit of weights under every other
intervention.  A side memory answers whole prompts, as a codebook does (`codebook.py`).

Sources: Huang et al. 2023 (T-Patcher) and Dong et al. 2022 (CaliNET): units; Wang et al. 2024 (WISE): side memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...errors import UsageError
from ...models.asking import deciding
from ...models.layout import DOWN, UP
from ...models.model import Model
from .change import ACTIVATIONS, Change, check_width
from .factors import Factors
from .where import Rows, Where


@dataclass(frozen=True, eq=False)
class Units(Change):
    """Units added to the MLP of one layer: MLP'(h) = MLP(h) + Σ act(h·k + b) v, act the model's own.

    In a gated architecture a unit is act(h·k + b) (h·g) v, as the layer's own units are.

    Args:
        layer: which.
        keys: k of each unit, what it answers to.
        bias: b of each.
        values: v of each, what it writes.
        gated: g of each; needed where the architecture is gated, and only there.
    """

    kind = "units"
    acts_on = ACTIVATIONS

    layer: int
    keys: Float[Tensor, "_unit d_model"]
    bias: Float[Tensor, " _unit"]
    values: Float[Tensor, "_unit d_model"]
    gated: Float[Tensor, "_unit d_model"] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        own = {"keys": self.keys, "bias": self.bias, "values": self.values}
        return own if self.gated is None else own | {"gated": self.gated}

    @property
    def header(self) -> dict[str, Any]:
        return {"layer": self.layer}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        return cls(header["layer"], tensors["keys"], tensors["bias"], tensors["values"], tensors.get("gated"))

    @property
    def layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def check(self, model: Model, made_for: str = "") -> None:
        check_width("units", self.keys.shape[1], model.d_model, made_for)
        is_gated = model.layout.is_gated(self.layer)
        if is_gated != (self.gated is not None):
            raise UsageError(
                f"the MLPs of {model.name} ({model.architecture}) are {'' if is_gated else 'not '}gated, but the units "
                f"are {'not ' if is_gated else ''}; they belong to {made_for or 'another model'}"
            )

    @contextmanager
    def on(self, model: Model, where: Where | None = None) -> Iterator[Model]:
        with ExitStack() as stack:
            rows, seen = Rows(model, self.layer, where, stack), list[Tensor]()
            activation = model.layout.activation(self.layer)

            def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
                seen[:] = [args[0]]

            def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
                entering = seen[0].to(torch.promote_types(seen[0].dtype, self.keys.dtype))
                keys, bias, values = (own.to(entering) for own in (self.keys, self.bias, self.values))
                units: Tensor = activation(entering @ keys.T + bias)
                if self.gated is not None:
                    units = units * (entering @ self.gated.to(entering).T)
                written = units @ values
                if where is not None:
                    written = rows.only_meant(written)
                return output + written.reshape(output.shape).to(output.dtype)

            stack.callback(model.layout.mlp_projection(UP, self.layer).register_forward_pre_hook(see).remove)
            stack.callback(model.layout.mlp_projection(DOWN, self.layer).register_forward_hook(add).remove)
            yield model


@dataclass(frozen=True, eq=False)
class Gated(Change):
    """A second version of one matrix, which answers a prompt instead of the first where the two differ enough on it.

    A prompt goes to W + ΔW if the mean of ‖ΔWᵀx‖ over its tokens is at least the threshold.

    Args:
        layer: which.
        matrix: "down", "up" or "gate".
        factors: ΔW.
        threshold: from which on.
    """

    kind = "gated"
    acts_on = ACTIVATIONS

    layer: int
    matrix: str
    factors: Factors
    threshold: float

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"u": self.factors.u, "v": self.factors.v}

    @property
    def header(self) -> dict[str, Any]:
        return {"layer": self.layer, "matrix": self.matrix, "threshold": self.threshold}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        return cls(header["layer"], header["matrix"], Factors(tensors["u"], tensors["v"]), header["threshold"])

    @property
    def layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def check(self, model: Model, made_for: str = "") -> None:
        width = model.layout.mlp_matrix(self.matrix, self.layer).shape[0]
        check_width("side memory", self.factors.u.shape[1], int(width), made_for)

    @contextmanager
    def on(self, model: Model, where: Where | None = None) -> Iterator[Model]:
        with ExitStack() as stack:
            rows = Rows(model, self.layer, where, stack)

            def answer(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
                change = self.factors.apply(rows.apart(args[0]))
                taken, _ = rows.decided(lambda ends: self._taken(change, ends))
                change = torch.where(rows.among_meant(taken[:, None])[..., None], change, 0)
                return output + change.reshape(output.shape).to(output.dtype)

            projection = model.layout.mlp_projection(self.matrix, self.layer)
            stack.enter_context(deciding(model))
            stack.callback(projection.register_forward_hook(answer).remove)
            yield model

    def _taken(self, change: Float[Tensor, "row pos d_out"], ends: Int[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """Whether each row's prompt is answered by the second version."""
        real = torch.arange(change.shape[1], device=change.device) <= ends.to(change.device)[:, None]
        size = change.double().norm(dim=-1) * real
        return size.sum(1) / real.sum(1) >= self.threshold
