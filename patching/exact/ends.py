"""The last layer, of which only the scored tokens matter.

Of the other tokens it needs no more than their keys and values.  So a column stops as soon as the last layer has those,
and the scored tokens of many columns go through the last layer together: whatever their tokens were, they all have the
same number of keys before them now.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from ...errors import MechinterpError
from ...forwards import unembedding
from ...forwards.unembedding import Logits
from ...models.layout import RESID_PRE
from ...models.model import Model
from ..plain.jobs import Pair
from .prefix import PrefixLayer

Owner = TypeVar("Owner")


class KeysReady(Exception):
    """The last layer has its keys and values; the forward that raises this is over."""


class LastLayer(PrefixLayer):
    """The cache of the last layer of a column: it takes the keys and values and ends the forward."""

    found: Pair

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        """Keep prefix and new ones, and stop.

        Raises:
            KeysReady: always.
        """
        self.found = super().update(key_states, value_states)
        raise KeysReady


@dataclass(frozen=True, eq=False)
class _Waiting:
    """The scored tokens' residual stream entering the last layer, and the keys and values before them."""

    stream: Float[Tensor, "row keep d_model"]
    keys: Float[Tensor, "row head pos d_head"]
    values: Float[Tensor, "row head pos d_head"]


@dataclass(eq=False)
class Ends(Generic[Owner]):
    """Rows that wait for their last layer.

    Args:
        model: the model.
        pairs: keys and values of some run, for the layers that a placeholder passes on its way.
        ids: the tokens of the prompts.
        keep: tokens that are scored.
    """

    model: Model
    pairs: list[Pair]
    ids: Int[Tensor, "prompt pos"]
    keep: int
    owners: list[Owner] = field(default_factory=list)
    _waiting: list[_Waiting] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many are waiting."""
        return sum(len(one.stream) for one in self._waiting)

    def add(self, owners: list[Owner], stream: Float[Tensor, "row pos d_model"], found: Pair) -> None:
        """Let the rows of one column wait.

        Args:
            owners: who they are; `run` gives them back.
            stream: the residual stream entering the last layer, up to the last token.
            found: the last layer's keys and values of all tokens.
        """
        before = self.ids.shape[1] - self.keep
        keys, values = (part[:, :, :before] for part in found)
        self.owners += owners
        self._waiting.append(_Waiting(stream[:, -self.keep :].contiguous(), keys, values))

    def run(self) -> tuple[list[Owner], Logits]:
        """Take all rows through the last layer; nobody waits afterwards."""
        owners, waiting = self.owners, self._waiting
        self.owners, self._waiting = [], []
        stream = torch.cat([one.stream for one in waiting])
        before, last = self.ids.shape[1] - self.keep, self.model.n_layers - 1
        layers = [PrefixLayer(keys[:1], values[:1], before) for keys, values in self.pairs[:last]]
        ready = torch.cat([one.keys for one in waiting]), torch.cat([one.values for one in waiting])
        fired: list[int] = []

        def enter(value: Tensor, hook: object) -> Tensor:
            fired.append(last)
            return stream

        # One placeholder row passes the layers before; the rows themselves enter at the last.
        placeholder = torch.zeros(1, self.keep, self.model.d_model, dtype=stream.dtype, device=stream.device)
        logits = unembedding.run(
            self.model,
            placeholder,
            [(self.model.layout.hook(RESID_PRE, last), enter)],
            past_key_values=Cache(layers=[*layers, PrefixLayer(*ready, before)]),
            stands_for=self.ids,
            logits_to_keep=self.keep,
        )
        if fired != [last] or logits.shape[0] != len(stream):
            raise MechinterpError(f"{self.model.name}: the last layer was not entered; use engine='plain'")
        return owners, logits
