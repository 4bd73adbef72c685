"""Text goes on, token by token, with the keys and values of earlier ones cached."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import DynamicCache

from ..errors import UsageError
from ..given import number, seed_of, whole
from .asking import PromptEnds, asking


@runtime_checkable
class Acting(Protocol):
    """What can be on while text is written: an edit, a program."""

    def on(self, model: Any) -> AbstractContextManager[Any]:
        """Act on the model for the length of a block, and give the model that is to be asked."""
        ...


@runtime_checkable
class Writer(Protocol):
    """A model, as far as is needed here."""

    @property
    def bridge(self) -> TransformerBridge:
        """What runs it."""
        ...

    def forward(self, given: Tensor, *, grad: bool = False, **arguments: Any) -> Tensor:
        """Logits."""
        ...

    def arguments(self, keep: int = 0, **given: Any) -> dict[str, Any]:
        """What a forward is given besides."""
        ...


@dataclass(frozen=True)
class Choice:
    """How the next token is chosen.

    Args:
        top_k: drawn from that many of the most probable ones; 1 takes the most probable one (greedy).
        temperature: divides the logits before it is drawn.
        seed: of the drawing; the same model, text and seed give the same text.

    Raises:
        UsageError: one of them makes no sense.
    """

    top_k: int = 1
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "top_k", whole(self.top_k, "top_k", least=1))
        object.__setattr__(self, "seed", seed_of(self.seed))
        object.__setattr__(self, "temperature", number(self.temperature, "temperature"))
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"the temperature is {self.temperature:g}; give a number above 0")

    def of(self, logits: Float[Tensor, " vocab"], generator: torch.Generator) -> int:
        """The token."""
        best, tokens = (logits.double().cpu() / self.temperature).topk(min(self.top_k, len(logits)))
        return int(tokens[torch.multinomial(best.softmax(-1), 1, generator=generator)])


def continued(model: Writer, ids: Sequence[int], count: int, choice: Choice, end: int | None) -> list[int]:
    """The tokens of a text and those that go on from it.

    Args:
        model: the model.
        ids: the text's.
        count: how many new ones at most.
        choice: how they are chosen.
        end: the token that ends a text (left out); None: nothing does.
    """
    cache, written = DynamicCache(), list(ids)
    new, ends = written, torch.tensor([len(ids) - 1])
    generator = torch.Generator().manual_seed(choice.seed)
    for step in range(count):
        arguments = model.arguments(1, past_key_values=cache, use_cache=True)
        with asking(model, PromptEnds(ends, going_on=step > 0)):
            logits = model.forward(torch.tensor([new]), **arguments)[0, -1]
        token = choice.of(logits, generator)
        if token == end:
            break
        written.append(token)
        new = [token]
    return written
