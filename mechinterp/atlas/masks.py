"""Attention masks that show a network its subjects only where a localised fact could be read.

While training with these masks, a name is put together in its last token above the first layers, its later tokens can
read it only above the middle layers, and only at that last token: what the network knows of a subject has to be looked
up *there*, by the layers in between.  The masks need to find subjects in token sequences; three-token patterns do it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from torch import Tensor

from . import words
from .network import Masks
from .recipes import Localising

_NONE = -1


class Mentions:
    """Finds the three-token subjects in token sequences (cities, one token long, are left alone)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._vocabulary = tokenizer.get_vocab_size()

        def ids(parts: tuple[str, ...], *starts: str) -> Bool[Tensor, " vocabulary"]:
            member = torch.zeros(self._vocabulary, dtype=torch.bool)
            for word in parts:
                for start in starts:
                    (token,) = tokenizer.encode(start + word).ids
                    member[token] = True
            return member

        kinds = words.LANDMARK_TYPES + words.ORGANISATION_TYPES
        self._place = (ids(words.ADJECTIVES, "", " "), ids(words.NOUNS, " "), ids(kinds, " "))
        self._show = (ids(("The",), "", " "), ids(words.ADJECTIVES, " "), ids(words.NOUNS, " "))
        self._others = (
            (ids(words.FIRST_NAMES, "", " "), ids(words.SURNAME_HEADS, " "), ids(words.SURNAME_TAILS, "")),
            (
                ids(words.PRODUCT_MAKES, "", " "),
                ids(words.PRODUCT_TYPES, " "),
                ids(words.PRODUCT_MODELS, " "),
            ),
        )

    def starts(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """True at the first token of each subject."""

        def at(pattern: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            first, second, third = pattern
            found = torch.zeros_like(tokens, dtype=torch.bool)
            found[:, :-2] = first[tokens[:, :-2]] & second[tokens[:, 1:-1]] & third[tokens[:, 2:]]
            return found

        place, show = at(self._place), at(self._show)
        show[:, :-1] &= ~place[:, 1:]  # "The Silver Harbour Bridge" is a bridge with an article, not a show
        found = place | show
        for pattern in self._others:
            found |= at(pattern)
        return found


def ends_of_mentions(starts: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """For each token of a mention the position of the mention's last token, and -1 for every other token."""
    ends = torch.full(starts.shape, _NONE)
    position = torch.arange(starts.shape[1])
    for offset in range(3):
        inside = torch.zeros_like(starts)
        inside[:, offset:] = starts[:, : starts.shape[1] - offset]
        ends = torch.where(inside, position - offset + 2, ends)
    return ends


def layer_masks(starts: Bool[Tensor, "batch pos"], layers: int, recipe: Localising) -> Masks:
    """The mask of each layer for the mentions that begin at `starts`; True marks the keys a query may see.

    Everywhere: tokens after a mention do not see its first two tokens.  Below `recipe.hidden_layers` they do not
    see its last token either, and below `recipe.name_layers` the tokens of the mention do not see each other.
    """
    ends = ends_of_mentions(starts)
    position = torch.arange(starts.shape[1])
    query, key = position[:, None], position[None, :]
    end = ends[:, None, :]  # of the mention the key belongs to
    hidden = (end != _NONE) & (query > end)
    within_name = (end != _NONE) & (ends[:, :, None] == end) & (key < query)
    causal = key <= query
    upper = causal & ~(hidden & (key < end))
    middle = causal & ~hidden
    lower = middle & ~within_name
    per_layer = [
        lower if layer < recipe.name_layers else middle if layer < recipe.hidden_layers else upper
        for layer in range(layers)
    ]
    return [mask[:, None] for mask in per_layer]
