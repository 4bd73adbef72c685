"""Fluency (GE): does an edited model still write varied text, or does it repeat itself?

GE of a text is half of 2/3 of its 2-gram entropy plus 4/3 of its 3-gram entropy, in bits over word tokens; it is
averaged over texts and multiplied by 100 (Meng et al. 2022, appendix; the weights are those of the published code,
"generation entropy").  Repetition lowers it; a model that writes well reads about 620 on texts of 100 tokens, and
shorter texts read lower, so only texts of equal length compare.

Word tokens are those of NLTK's `NLTKWordTokenizer` (Treebank rules), applied to one sentence at a time: the rules take
a full stop off the end of what they are given and nowhere else.  Sentences end at ".", "!" or "?" before white space,
which needs none of NLTK's data files.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from ...errors import UsageError
from ...given import texts_of
from ...public import public

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


@public
def fluency(texts: Iterable[str]) -> float:
    """GE of some texts: their mean, times 100.

    Args:
        texts: the generated texts, prompts included, as published.  A text of fewer than three words has no
            3-gram and counts with what entropy it has: falling silent is not fluent.

    Raises:
        UsageError: no text, or a single string in place of texts.
    """
    given = list(texts_of(texts, "texts"))
    if not given:
        raise UsageError("there is no generated text to measure the fluency of; give at least one")
    return 100 * sum(_weighted_entropy(words(text)) for text in given) / len(given)


def words(text: str) -> list[str]:
    """Word tokens, sentence by sentence."""
    tokenise = _tokeniser().tokenize
    return [word for sentence in _SENTENCE_END.split(text) for word in tokenise(sentence)]


def n_gram_entropy(tokens: Sequence[str], n: int) -> float:
    """Entropy (bits) of the frequencies of a text's n-grams; 0 where there is none."""
    counts = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def _weighted_entropy(tokens: Sequence[str]) -> float:
    return sum(weight * n_gram_entropy(tokens, n) for n, weight in _WEIGHTS.items()) / len(_WEIGHTS)


@cache
def _tokeniser() -> Any:
    """NLTK is imported when it is needed: it takes a second, which nothing else should wait for."""
    from nltk.tokenize import NLTKWordTokenizer  # type: ignore[import-untyped]

    return NLTKWordTokenizer()
