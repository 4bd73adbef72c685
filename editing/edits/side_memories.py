"""Versions of one matrix, each of which answers a prompt where it differs enough on it (Wang et al. 2024, WISE).

Which version answers is decided once for each prompt, by its own tokens; W itself answers where none differs enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...models.asking import deciding
from ...models.model import Model
from .change import ACTIVATIONS, Change, check_width
from .where import Rows, Where

LONG = 100
"""Tokens above which the published code takes the largest change of any token, and not their mean."""


@dataclass(frozen=True, eq=False)
class SideMemories(Change):
    """Versions W + ΔW of one matrix beside W; the first is the one that is edited, the others are kept.

    Args:
        layer: which.
        matrix: "down", "up" or "gate".
        deltas: ΔW of each.
        thresholds: how much each must change what leaves the matrix to answer.
        activated: the change is that of the MLP's activation *of what leaves the matrix* (as published), else that of
            what leaves it.
        long_prompts: over `LONG` tokens the largest change of a token counts (as published), else always the mean.
        group: of several that are on, the last one of a group acts for all of it; "" stands for itself.
    """

    kind = "side memories"
    acts_on = ACTIVATIONS

    layer: int
    matrix: str
    deltas: Float[Tensor, "_memory d_in d_out"]
    thresholds: Float[Tensor, " _memory"]
    activated: bool = False
    long_prompts: bool = False
    group: str = ""

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"deltas": self.deltas, "thresholds": self.thresholds}

    @property
    def header(self) -> dict[str, Any]:
        plain = {"activated": self.activated, "long_prompts": self.long_prompts, "group": self.group}
        return {"layer": self.layer, "matrix": self.matrix, **plain}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        return cls(deltas=tensors["deltas"], thresholds=tensors["thresholds"], **header)

    @property
    def layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def check(self, model: Model, made_for: str = "") -> None:
        width = model.layout.mlp_matrix(self.matrix, self.layer).shape[0]
        check_width("side memory", self.deltas.shape[1], int(width), made_for)

    @contextmanager
    def on(self, model: Model, where: Where | None = None) -> Iterator[Model]:
        projection = model.layout.mlp_projection(self.matrix, self.layer)
        acting = model.layout.activation(self.layer) if self.activated else None
        same = _acting.setdefault(projection, {}).setdefault(self.group or str(id(self)), [])
        with ExitStack() as stack:
            rows = Rows(model, self.layer, where, stack)

            def answer(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
                if same[-1] is not self or not len(self.deltas):
                    return output
                entering, leaving = rows.apart(args[0]), rows.apart(output)
                finer = torch.promote_types(leaving.dtype, self.deltas.dtype)
                changes = entering.to(finer) @ self.deltas.to(entering.device, finer)[:, None]
                taken, _ = rows.decided(lambda ends: self._taken(changes, leaving.to(finer), ends, acting))
                meant = rows.among_meant((taken >= 0)[:, None])[..., None]
                chosen = changes[taken.clamp(min=0), torch.arange(len(taken), device=taken.device)]
                added = (leaving + torch.where(meant, chosen, 0)).to(output.dtype)
                return torch.where(meant, added, leaving).reshape(output.shape)

            same.append(self)
            stack.callback(lambda: same.remove(self))
            stack.enter_context(deciding(model))
            stack.callback(projection.register_forward_hook(answer).remove)
            yield model

    def _taken(
        self,
        changes: Float[Tensor, "memory row pos d_out"],
        leaving: Float[Tensor, "row pos d_out"],
        ends: Int[Tensor, " row"],
        acting: Callable[[Tensor], Tensor] | None,
    ) -> Int[Tensor, " row"]:
        """The memory that answers each row, -1 where none does."""
        real = torch.arange(leaving.shape[1], device=leaving.device) <= ends.to(leaving.device)[:, None]
        sizes = changed(changes, leaving, acting) * real
        means = sizes.sum(-1) / real.sum(-1)
        if self.long_prompts:
            means = torch.where(real.sum(-1) > LONG, sizes.amax(-1), means)
        return routed(means, self.thresholds.to(means))


def changed(
    changes: Float[Tensor, "*memory row pos d_out"],
    leaving: Float[Tensor, "row pos d_out"],
    acting: Callable[[Tensor], Tensor] | None,
) -> Float[Tensor, "*memory row pos"]:
    """How much each token's output changes: ‖act(y + Δ) − act(y)‖, or without an activation ‖Δ‖."""
    if acting is None:
        return changes.norm(dim=-1)
    return (acting(leaving + changes) - acting(leaving)).norm(dim=-1)


def routed(sizes: Float[Tensor, "memory row"], thresholds: Float[Tensor, " memory"]) -> Int[Tensor, " row"]:
    """Which memory answers: the first at its threshold, then each that exceeds it and all before it; -1: none."""
    first = torch.where(sizes[0] >= thresholds[0], 0, -1)
    most = sizes[0].clone()
    for number in range(1, len(sizes)):
        over = (sizes[number] > most) & (sizes[number] > thresholds[number])
        first, most = torch.where(over, number, first), torch.where(over, sizes[number], most)
    return first


_acting: WeakKeyDictionary[nn.Module, dict[str, list[SideMemories]]] = WeakKeyDictionary()
"""A matrix -> group -> those that are on, in order; only the last acts."""
