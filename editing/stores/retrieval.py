"""Which entry of a store answers some words: one protocol, and three ways.

near      the nearest embedding, by cosine or dot product (MeLLo, IKE; MemPrompt's semantic memory)
spelled   the fewest letters to change (MemPrompt's closest memory)
words     BM25, the words in common weighted by how rare they are
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float, Float64
from nltk.metrics.distance import edit_distance  # type: ignore[import-untyped]
from torch import Tensor

from ...errors import UsageError
from .embedding import Embed
from .store import Store

COSINE, DOT = SIMILARITIES = ("cosine", "dot")


@dataclass(frozen=True)
class Found:
    """An entry that answers.

    Args:
        entry: its number.
        score: how well, in the units of who looked.
    """

    entry: int
    score: float


@dataclass(frozen=True)
class Near:
    """The nearest embedding.

    Args:
        encoder: "model", or the name of a sentence encoder.
        layer: of the model, whose states are averaged.
        similarity: "cosine" or "dot".
        above: only what is more similar answers; None: the nearest always does.
    """

    encoder: str = "model"
    layer: int = 0
    similarity: str = COSINE
    above: float | None = None

    def scores(self, store: Store, words: str, embed: Embed) -> Float64[Tensor, " entry"]:
        """Of each entry."""
        if store.vectors is None:
            raise UsageError("this store has no vectors, and its retriever compares vectors; make it with an encoder")
        return similarities(store.vectors, embed([words])[0], self.similarity)

    def find(self, store: Store, words: str, embed: Embed) -> Found | None:
        """The entry that answers some words."""
        if not len(store):
            return None
        score, entry = self.scores(store, words, embed).max(0)
        return Found(int(entry), float(score)) if self.above is None or float(score) > self.above else None


@dataclass(frozen=True)
class Spelled:
    """The key in which the fewest letters are to be changed (Levenshtein).

    Args:
        below: only fewer changes answer; the published 6 is absolute, so that any short question hits a short key.
        relative: `below` is a share of the longer one's letters.
        cleaned: compare with what `cleaned` leaves of the words; keys are as they were written.
    """

    below: float = 0.15
    relative: bool = True
    cleaned: bool = False

    def find(self, store: Store, words: str, embed: Embed) -> Found | None:
        """The entry that answers some words; of several that are as near, the first written."""
        asked, best = cleaned(words) if self.cleaned else words, None
        for number, key in enumerate(store.keys):
            if not key:
                continue
            apart = float(edit_distance(asked, key))
            if apart < self.below * (max(len(asked), len(key)) if self.relative else 1):
                best = Found(number, apart) if best is None or apart < best.score else best
        return best


@dataclass(frozen=True)
class Words:
    """BM25 (k₁ 1.5, b 0.75).

    Args:
        above: only a higher score answers.
    """

    above: float = 0.0

    def find(self, store: Store, words: str, embed: Embed) -> Found | None:
        """The entry that answers some words."""
        if not len(store):
            return None
        library = _bm25()
        index = library.BM25()
        index.index([split(key) for key in store.keys], show_progress=False)
        known = [word for word in split(words) if word in index.vocab_dict]
        if not known:
            return None
        scores = torch.from_numpy(index.get_scores(known)).double()
        score, entry = scores.max(0)
        return Found(int(entry), float(score)) if float(score) > self.above else None


def _bm25() -> Any:
    try:
        return import_module("bm25s")
    except ImportError:
        raise UsageError(
            "finding entries by their words needs bm25s, which is not installed; pip install 'mechinterp[retrieval]'"
        ) from None


Retriever = Near | Spelled | Words
"""Whatever finds the entry of a store that answers some words: `find(store, words, embed)`."""
_KINDS: dict[str, Callable[..., Retriever]] = {"near": Near, "spelled": Spelled, "words": Words}


def plain_of(retriever: Retriever) -> dict[str, Any]:
    """A retriever as JSON has it."""
    name = next(name for name, kind in _KINDS.items() if type(retriever) is kind)
    return {"kind": name, **asdict(retriever)}


def retriever_of(plain: dict[str, Any]) -> Retriever:
    """What `plain_of` was given."""
    return _KINDS[plain["kind"]](**{name: value for name, value in plain.items() if name != "kind"})


def similarities(
    vectors: Float[Tensor, "entry width"], query: Float[Tensor, " width"], how: str
) -> Float64[Tensor, " entry"]:
    """How like a query each vector is."""
    found = vectors.double() @ query.double()
    return found if how == DOT else found / (vectors.double().norm(dim=1) * query.double().norm())


def cleaned(question: str) -> str:
    """A question as MemPrompt's code keys it: nothing from the first "<" to the last ">", small letters and digits.

    Blanks become one *before* punctuation goes, so "a - b" keeps two.
    """
    outside = re.sub(r"<.*>", "", question, flags=re.DOTALL)
    return re.sub(r"[^a-z0-9 ]", "", re.sub(r"\s+", " ", outside).strip().lower()).strip()


def split(text: str) -> list[str]:
    """Words in small letters."""
    return re.findall(r"\w+", text.lower())


def ranking(vectors: Float[Tensor, "entry width"], query: Float[Tensor, " width"], how: str) -> list[int]:
    """The entries, the most similar first; of equal ones the first written."""
    return [int(i) for i in similarities(vectors, query, how).argsort(descending=True, stable=True)]
