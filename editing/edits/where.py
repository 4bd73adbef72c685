"""In which rows of a forward a change acts, and what it decides once for each prompt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...models.asking import prompt_ends
from ...models.model import Model

Where = Callable[[], Bool[Tensor, " row"]]
"""Which rows of the present forward are meant."""


class Rows:
    """The rows of the present forward, as a layer meets them: for hooks on matrices, which may see them flattened.

    Args:
        model: the model.
        layer: whose block is watched.
        where: the rows that are meant; None: all.
        stack: what ends the watching.
    """

    def __init__(self, model: Model, layer: int, where: Where | None, stack: ExitStack) -> None:
        self._model, self._where = model, where
        self._shape = (0, 0)
        self._kept: Tensor | None = None
        block: nn.Module = model.layout.blocks[layer]
        stack.callback(block.register_forward_pre_hook(self._see, with_kwargs=True).remove)

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        residual: Tensor = args[0] if args else kwargs["hidden_states"]
        self._shape = (residual.shape[0], residual.shape[1])

    def apart(self, x: Float[Tensor, "*n width"]) -> Float[Tensor, "row pos width"]:
        """What enters or leaves a matrix, with rows and positions apart."""
        return x.reshape(*self._shape, x.shape[-1])

    def among_meant(self, places: Bool[Tensor, "row pos"]) -> Bool[Tensor, "row pos"]:
        """Those of some places that lie in rows that are meant."""
        return places if self._where is None else places & self._where().to(places.device)[:, None]

    def only_meant(self, change: Float[Tensor, "*n width"]) -> Float[Tensor, "row pos width"]:
        """A change in the rows that are meant, and zero in the others."""
        wide = self.apart(change)
        meant = self.among_meant(torch.ones(wide.shape[:2], dtype=torch.bool, device=wide.device))
        return torch.where(meant[..., None], wide, 0)

    def decided(self, decide: Callable[[Int[Tensor, " row"]], Tensor]) -> tuple[Tensor, Int[Tensor, " row"] | None]:
        """What is decided for each prompt, once: rows that go on keep it.

        Args:
            decide: from the prompts' ends; gives a decision for each row.

        Returns:
            the decisions, and where the prompts end in this forward (None: they ended before it).
        """
        known = prompt_ends(self._model, *self._shape)
        if known.going_on and self._kept is not None:
            return self._kept, None
        self._kept = decide(known.ends)
        return self._kept, known.ends
