"""A change that answers only the prompts in its scope; all others are the model's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ...errors import UsageError
from ...models.asking import deciding, prompt_ends
from ...models.model import Model
from .adapters import Gated, Units
from .change import ANSWERS, Change
from .codebook import Codebook
from .scopes import Scope, read_scope
from .weights import WeightChange

_ROUTABLE: dict[str, type[WeightChange] | type[Units] | type[Codebook] | type[Gated]] = {
    kind.kind: kind for kind in (WeightChange, Units, Codebook, Gated)
}


@dataclass(frozen=True, eq=False)
class Routed(Change):
    """A change of weights or activations, in the rows whose prompt is in scope.

    Args:
        scope: which prompts.
        change: what answers them.
    """

    kind = "routed"
    acts_on = ANSWERS

    scope: Scope
    change: WeightChange | Units | Codebook | Gated

    @property
    def tensors(self) -> dict[str, Tensor]:
        own = {f"scope {name}": tensor for name, tensor in self.scope.tensors.items()}
        return own | {f"change {name}": tensor for name, tensor in self.change.tensors.items()}

    @property
    def header(self) -> dict[str, Any]:
        return {
            "scope": {"kind": self.scope.kind, "header": self.scope.header},
            "change": {"kind": self.change.kind, "header": self.change.header},
        }

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        def of(part: str) -> dict[str, Tensor]:
            return {name.removeprefix(f"{part} "): t for name, t in tensors.items() if name.startswith(f"{part} ")}

        scope, change = header["scope"], header["change"]
        return cls(
            read_scope(of("scope"), scope),
            _ROUTABLE[change["kind"]].read(of("change"), change["header"]),
        )

    @property
    def layers(self) -> tuple[int, ...]:
        return self.change.layers

    def check(self, model: Model, made_for: str = "") -> None:
        if model.is_encoder_decoder:
            raise UsageError(f"{model.name} is an encoder-decoder; prompts are routed for decoders alone")
        self.change.check(model, made_for)

    @contextmanager
    def on(self, model: Model) -> Iterator[Model]:
        meant: Bool[Tensor, " row"] = torch.zeros(0, dtype=torch.bool)

        def route(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            nonlocal meant
            ids: Int[Tensor, "row pos"] = args[0] if args else kwargs["input_ids"]
            known = prompt_ends(model, *ids.shape)
            if not known.going_on:
                prompts = [row[: end + 1] for row, end in zip(ids.tolist(), known.ends.tolist(), strict=True)]
                texts = [str(model.tokenizer.decode(prompt, skip_special_tokens=True)) for prompt in prompts]
                meant = torch.tensor(self.scope.holds(texts))

        with ExitStack() as stack:
            embedding = model.layout.token_embedding
            stack.callback(embedding.register_forward_pre_hook(route, with_kwargs=True).remove)
            stack.enter_context(deciding(model))
            stack.enter_context(self.change.on(model, lambda: meant))
            yield model
