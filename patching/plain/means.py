"""Mean activations over some texts: of all tokens, or by their number or role."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Prompt
from ...facts.spans import TokenisedPrompt
from ...models.layout import EMBED
from ...models.model import Model
from ..algebra.cells import Placed, tokens_of
from ..algebra.sources import Mean
from .executor import forward
from .precision import exact

Key = int | str | None
"""What tokens are averaged over: those of one number or one role, or all."""


@dataclass(eq=False)
class Means:
    """Means that were asked for, each component's measured once in all layers.

    Args:
        model: the model.
    """

    model: Model
    _measured: dict[tuple[Mean, str], dict[tuple[int, Key], Tensor]] = field(default_factory=dict)

    def values(self, source: Mean, prompt: TokenisedPrompt, placed: Placed) -> Float[Tensor, "1 tokens *width"]:
        """The mean at each token of a write.

        Raises:
            UsageError: no text has a token of that number or role.
        """
        if (source, placed.component) not in self._measured:
            self._measured[source, placed.component] = self._measure(source, placed.component)
        means = self._measured[source, placed.component]
        layer = 0 if placed.component == EMBED else placed.layer
        mine = tokens_of(placed.component, prompt)
        found = []
        for position in placed.positions:
            key = _key(source.by, position, mine)
            if (layer, key) not in means:
                what = f"token number {key}" if source.by == "position" else f"token with the role {key!r}"
                raise UsageError(f"no text of {source} has a {what}, as {prompt.prompt.text!r} has; give more texts")
            found.append(means[layer, key])
        return torch.stack(found)[None]

    def _measure(self, source: Mean, component: str) -> dict[tuple[int, Key], Tensor]:
        layout = self.model.layout
        layers = [0] if component == EMBED else range(layout.n_layers)
        hooks = {layer: layout.read_hook(component, layer) for layer in layers}
        total: dict[tuple[int, Key], Tensor] = {}
        count: Counter[tuple[int, Key]] = Counter()
        for text in source.texts:
            tokens = self.model.tokenise(text.with_answer(None)) if isinstance(text, Prompt) else None
            inputs, decoder = self.model.inputs(tokens.ids if tokens else self.model.fitting(str(text)))
            past = {"decoder_ids": self.model.fed([decoder])}
            cache = forward(self.model, torch.tensor([inputs]), reads=list(hooks.values()), past=past).cache
            for layer, hook in hooks.items():
                values = exact(cache[hook][0])
                if source.by == "all":
                    _add(total, count, (layer, None), values.sum(0), len(values))
                    continue
                for position, value in enumerate(values):
                    key = _key(source.by, position, tokens_of(component, tokens) if tokens else None)
                    _add(total, count, (layer, key), value, 1)
        return {key: (value / count[key]).to(self.model.device, self.model.dtype) for key, value in total.items()}


def _add(
    total: dict[tuple[int, Key], Tensor], count: Counter[tuple[int, Key]], key: tuple[int, Key], value: Tensor, n: int
) -> None:
    total[key] = total[key] + value if key in total else value
    count[key] += n


def _key(by: str, position: int, tokens: TokenisedPrompt | None) -> Key:
    if by == "role":
        assert tokens is not None  # texts have no roles, and are refused
        return tokens.role(position)
    return position if by == "position" else None
