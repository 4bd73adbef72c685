"""The tokenizer both models share: byte-level BPE in which every word of the world is one token.

Surnames are the exception: they are shown to the trainer with a line break between head and tail, so no merge crosses
the joint and a person is always three tokens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from . import words
from .mixture import epoch
from .recipes import RECIPES
from .world import World

END_OF_TEXT = "<|endoftext|>"
_JOINT = re.compile(f"({'|'.join(words.SURNAME_HEADS)})({'|'.join(words.SURNAME_TAILS)})\\b")
_SEED = 5
_NAME_PARTS = (
    words.FIRST_NAMES,
    words.ADJECTIVES,
    words.NOUNS,
    words.LANDMARK_TYPES,
    words.ORGANISATION_TYPES,
    words.PRODUCT_MAKES,
    words.PRODUCT_TYPES,
    words.PRODUCT_MODELS,
    words.CITIES,
)


def _training_text(world: World) -> Iterator[str]:
    """Two epochs of each recipe, and every word of the lists often enough to become a token."""
    rng = random.Random(_SEED)
    for recipe in RECIPES.values():
        for _ in range(2):
            for text in epoch(world, recipe.mixture, rng):
                yield _JOINT.sub(r"\1\n\2", text)
    for _ in range(50):
        yield from (f"x {word}" for word in words.OBJECTS)
        for part in _NAME_PARTS:
            yield from part
            yield from (f"x {word}" for word in part)
    # Heads and tails come first among the merges, so that few surnames run together.
    for _ in range(500):
        yield from (f"x {head}" for head in words.SURNAME_HEADS)
        yield from words.SURNAME_HEADS
        yield from words.SURNAME_TAILS


def train_tokenizer(world: World) -> Tokenizer:
    """A tokenizer for this world; the same world gives the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # not reached: merging ends when every word of the world is one token
        min_frequency=8,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_text(world), trainer)
    return tokenizer


def object_id(tokenizer: Tokenizer, word: str) -> int:
    """The single token of an object after a space."""
    (token,) = tokenizer.encode(f" {word}").ids
    return int(token)


def end_of_text(tokenizer: Tokenizer) -> int:
    """The token that stands between documents."""
    token = tokenizer.token_to_id(END_OF_TEXT)
    assert token is not None
    return int(token)
