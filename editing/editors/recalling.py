"""Editors that keep facts in a memory and say the one that is found before a question.

memprompt   a past question is found again by its letters (or its meaning), and what was said about it is repeated
            (Madaan et al. 2022)
mello       the nearest edited fact is said; over several hops as a procedure (`analysis.multihop`; Zhong et al. 2023)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float64
from torch import Tensor

from ...errors import UsageError
from ..edits.inputs import Recalled
from ..hyperparameters import Hparams
from ..stores.embedding import OWN, embedder
from ..stores.retrieval import COSINE, DOT, SIMILARITIES, Near, Retriever, Spelled, Words, cleaned
from ..stores.store import Store
from .protocol import Editor, Job, Made

Vectors = Float64[Tensor, "request width"]
SPELLED, NEAR, WORDS = LOOKUPS = ("spelled", "near", "words")


@dataclass(frozen=True)
class RecallHparams(Hparams):
    """How a memory is asked, and what is made of what it says.

    Args:
        lookup: "spelled" (letters to change), "near" (embeddings) or "words" (BM25).
        below: of "spelled": only fewer changes answer; a share of the letters, or with `relative` off their number.
        relative: see `below`.
        cleaned: of "spelled": as the authors' code does, what stands in <angle brackets> is no part of a key.
        above: of the others: only what is more similar answers; None: the nearest always does.
        similarity: of "near": "cosine" or "dot".
        encoder: of "near": "model" (the mean of its middle layer), or a sentence encoder.
        text: what is kept of a fact, with `{prompt}` and `{target}`.
        key: what it is found by: "prompt", or "text".
        hit: the words around a question for which something is found: `{}` and `{text}`.
        miss: those around any other.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "a memory"

    lookup: str = SPELLED
    below: float = 0.15
    relative: bool = True
    cleaned: bool = False
    above: float | None = None
    similarity: str = COSINE
    encoder: str = OWN
    text: str = "{prompt} {target}."
    key: str = "prompt"
    hit: str = "{text} {}"
    miss: str = "{}"

    def __post_init__(self) -> None:
        self._one_of(lookup=LOOKUPS, similarity=SIMILARITIES, key=("prompt", "text"))
        self._above_zero("below")
        if self.text.count("{prompt}") != 1 or self.text.count("{target}") != 1:
            raise UsageError(f"text is {self.text!r}; it needs one {{prompt}} and one {{target}}")
        Recalled(Store(), Words(), self.hit, self.miss)

    def retriever(self, layer: int) -> Retriever:
        """Who finds an entry; embeddings are of this layer of the model."""
        if self.lookup == SPELLED:
            return Spelled(self.below, self.relative, self.cleaned)
        if self.lookup == WORDS:
            return Words(self.above or 0.0)
        return Near(self.encoder, layer, self.similarity, self.above)


MEMPROMPT_PRESETS: dict[str, RecallHparams] = {
    "default": RecallHparams(lookup=NEAR, above=0.9),
    "paper": RecallHparams(below=6.0, relative=False, hit="{} | clarification: {text}"),
    "published": RecallHparams(below=6.0, relative=False, cleaned=True, hit="{} | clarification: {text}"),
    "semantic": RecallHparams(lookup=NEAR, above=0.9, hit="{} | clarification: {text}"),
}
"""`published`: the authors' closest memory, whose key leaves out what stands in <angle brackets> (their tasks put the
words asked about there; a fact's subject stays in the key) and whose distance is absolute.  `paper`: without the
cleaning.  `semantic`: their other memory, with the model's own embeddings in the place of a tuned BERT, and without
their fault that a key written twice puts embeddings and keys out of step.  Their few-shot texts are for other tasks:
put one into `hit` and `miss`.
"""
MELLO_PRESETS: dict[str, RecallHparams] = {
    "default": RecallHparams(lookup=NEAR, above=0.9, key="text"),
    "paper": RecallHparams(lookup=NEAR, similarity=DOT, key="text", text="{prompt} {target}"),
    "published": RecallHparams(lookup=NEAR, similarity=DOT, key="text", text="{prompt} {target}"),
}
"""`published`: the nearest fact by dot product always answers (embeddings of the model itself; the authors' are
contriever-msmarco's).  `default` answers only what is like a fact."""


class Recall(Editor[RecallHparams]):
    """A memory of facts; several memories that are on and ask in the same way are one."""

    hparams_type = RecallHparams
    decoders_only = True

    def make(self, job: Job[RecallHparams]) -> Made:
        """A memory of all requests."""
        return self._remembered(job, range(len(job.requests)), self._vectors(job))

    def make_each(self, job: Job[RecallHparams]) -> list[Made]:
        """A memory of each, their keys embedded together."""
        vectors = self._vectors(job)
        return [self._remembered(job, [i], vectors) for i in range(len(job.requests))]

    def _remembered(self, job: Job[RecallHparams], some: Sequence[int], vectors: Vectors | None) -> Made:
        hparams, store = job.hparams, Store()
        for i in some:
            key, text = _entry(job, i)
            store = store.with_entry(key, text, None if vectors is None else vectors[i])
        return Made(Recalled(store, hparams.retriever(job.model.n_layers // 2), hparams.hit, hparams.miss))

    def _vectors(self, job: Job[RecallHparams]) -> Vectors | None:
        embed = embedder(job.model, job.hparams.encoder, job.model.n_layers // 2)
        if job.hparams.lookup != NEAR:
            return None
        return embed([_entry(job, i)[0] for i in range(len(job.requests))])


def _entry(job: Job[RecallHparams], i: int) -> tuple[str, str]:
    """Key and text of a request."""
    prompt = job.requests[i].prompt.text
    text = job.hparams.text.replace("{prompt}", prompt).replace("{target}", job.requests[i].target)
    key = text if job.hparams.key == "text" else prompt
    return (cleaned(key) if job.hparams.cleaned else key), text


memprompt = Recall("memprompt", "Madaan et al. 2022 (MemPrompt)", MEMPROMPT_PRESETS)
mello = Recall("mello", "Zhong et al. 2023 (MeLLo)", MELLO_PRESETS)
"""Say what was said about a like question: an `Editor` each; call it with the model and the requests."""
