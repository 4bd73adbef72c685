"""Short texts that differ from each other, enough of them for the second moment of a small model."""

from __future__ import annotations

import random

from .tokenizers import SENTENCES


def running_text(texts: int) -> list[str]:
    """Words of the sentences, thrown together; the same ones each time."""
    choose, words = random.Random(0), " ".join(SENTENCES).split()
    return [" ".join(choose.choices(words, k=1 + i % 7)) for i in range(texts)]
