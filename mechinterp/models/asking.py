"""Where the prompt ends in each row of a forward: what a change that answers prompts, not tokens, must know.

A row holds a prompt and what is fed after it (an answer that is scored, text written so far).  Whether a change answers
the prompt must not depend on that, nor on padding, nor on the other rows; so whoever runs rows says where prompts end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from ..errors import MechinterpError


@runtime_checkable
class Bridged(Protocol):
    """A model, as far as is needed here."""

    @property
    def bridge(self) -> TransformerBridge:
        """What runs it."""
        ...


@dataclass(frozen=True, eq=False)
class PromptEnds:
    """What is known of the rows of a forward.

    Args:
        ends: the position of each prompt's last token.
        going_on: the rows are those of the forward before, which a cache of keys and values goes on from; what was
            decided for their prompts then holds now.
    """

    ends: Int[Tensor, " row"]
    going_on: bool = False


_known: WeakKeyDictionary[TransformerBridge, PromptEnds] = WeakKeyDictionary()
_deciding: Counter[int] = Counter()
"""id of a bridge -> how many changes that are on decide by prompts; an entry lasts no longer than they do."""


@contextmanager
def asking(model: Bridged, prompts: PromptEnds | None) -> Iterator[None]:
    """Say of the forwards in this block where their prompts end; None: nothing is known (see `prompt_ends`)."""
    if prompts is None:
        yield
        return
    before = _known.get(model.bridge)
    _known[model.bridge] = prompts
    try:
        yield
    finally:
        if before is None:
            del _known[model.bridge]
        else:
            _known[model.bridge] = before


def prompt_ends(model: Bridged, rows: int, width: int) -> PromptEnds:
    """Where the prompts of the present forward end; where nobody said, all that is given is the prompt.

    Args:
        model: the model.
        rows: of the forward.
        width: its tokens.

    Raises:
        MechinterpError: another number of rows was spoken of.
    """
    known = _known.get(model.bridge)
    if known is None:
        return PromptEnds(torch.full((rows,), width - 1))
    if len(known.ends) != rows:
        raise MechinterpError(f"a forward has {rows} rows, but the ends of {len(known.ends)} prompts were given")
    return known


@contextmanager
def deciding(model: Bridged) -> Iterator[None]:
    """Within the block a change is on that decides by whole prompts: no part of a forward can be left out."""
    key = id(model.bridge)
    _deciding[key] += 1
    try:
        yield
    finally:
        _deciding[key] -= 1
        if not _deciding[key]:
            del _deciding[key]


def decides_by_prompt(model: Bridged) -> bool:
    """Whether such a change is on."""
    return _deciding[id(model.bridge)] > 0
