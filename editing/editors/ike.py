"""IKE: the fact is said before the question, among demonstrations of how such a fact is to be read (Zheng et al. 2023).

A demonstration is a line with a new fact and a line with a prompt and what follows it.  Of three kinds: *copy* (the
fact's own prompt, the new object), *update* (a paraphrase, the new object) and *retain* (a neighbour, the object it has
in truth).  The most similar fact stands last, then the edit itself as a demonstration of itself, then the question.

The answer stands in the prompt: figures of IKE are no figures of a changed model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from ...atlas import known_facts
from ...errors import UsageError
from ...facts.prompts import Fact, Question
from ...given import several
from ..edits.inputs import Demonstrations
from ..edits.request import EditRequest
from ..edits.scopes import Mentions
from ..hyperparameters import Hparams
from ..stores.embedding import OWN, embedder
from ..stores.retrieval import COSINE, ranking
from .protocol import Editor, Job, Made

COPY, UPDATE, RETAIN = range(3)
KINDS = (2, 1, 2, 0, 1, 2, 2, 0, 2, 2, 1, 0, 2, 1, 2, 0, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2)
"""4 copies, 12 updates and 16 retained ones, in the order of the authors' code before it is shuffled."""
_POOL = 2000
"""Facts that are looked through for similar ones."""


@dataclass(frozen=True)
class IkeHparams(Hparams):
    """What is said before a question.

    Args:
        copies, updates, retains: demonstrations of each kind.
        block: a demonstration, with `{fact}` and `{line}`; its last line is what a question is put into.
        between: what stands between two.
        shown_itself: the edit is a demonstration of itself.
        scope: "all": every question is asked behind the fact; "subject": those that name its subject.
        fit: leave out the least similar demonstrations where they would not fit; False: say so.
        encoder: who finds similar facts: "model" (the mean of its middle layer), or a sentence encoder.

    Raises:
        UsageError: a value outside its range; a block without its two places.
    """

    method: ClassVar[str] = "IKE"

    copies: int = 0
    updates: int = 0
    retains: int = 0
    block: str = "{fact}. {line}"
    between: str = ". "
    shown_itself: bool = False
    scope: str = "subject"
    fit: bool = True
    encoder: str = OWN

    def __post_init__(self) -> None:
        self._not_negative("copies", "updates", "retains")
        self._one_of(scope=("all", "subject"))
        if self.block.count("{fact}") != 1 or not self.block.endswith("{line}") or self.block.count("{line}") != 1:
            raise UsageError(f"block is {self.block!r}; it needs one {{fact}}, and {{line}} at its end")

    @property
    def kinds(self) -> tuple[int, ...]:
        """Of all demonstrations, before they are shuffled: the published order where their numbers are published."""
        counts = (self.copies, self.updates, self.retains)
        if counts == tuple(KINDS.count(kind) for kind in range(3)):
            return KINDS
        return tuple(kind for kind, count in enumerate(counts) for _ in range(count))


_PUBLISHED = IkeHparams(
    copies=4, updates=12, retains=16, block="New Fact: {fact}\nPrompt: {line}", between="\n\n", shown_itself=True,
    scope="all", fit=False,
)  # fmt: skip
IKE_PRESETS: dict[str, IkeHparams] = {"default": IkeHparams(), "paper": _PUBLISHED, "published": _PUBLISHED}
"""`published`: 32 demonstrations, nearest last, then the edit itself.  Similar facts are found by the mean of the
model's own middle layer and a record's first sentence, where the authors embedded 13 sentences of each with
all-MiniLM-L6-v2 (`encoder` takes it; how they made 32 records of 64 sentences is not published).

`default` is set by hand (docs/editors.md).  It fits a model that has seen no such format: the fact as a sentence,
before questions that name its subject.
"""


@dataclass(frozen=True)
class Block:
    """One demonstration.

    Args:
        record: which fact.
        kind: `COPY`, `UPDATE` or `RETAIN`.
        chosen: the number of its paraphrase or neighbour; -1: none.
    """

    record: int
    kind: int
    chosen: int = -1


def demonstrate(
    ranked: Sequence[int], kinds: Sequence[int], sizes: Sequence[tuple[int, int]], seed: int
) -> list[Block]:
    """Which demonstrations stand in a prompt, in its order: the most similar last.

    Args:
        ranked: records, the most similar first.
        kinds: of the demonstrations, which are shuffled.
        sizes: of each record, how many paraphrases and neighbours it has.
        seed: of Python's generator, as in the authors' code: one shuffle, then a choice of each paraphrase or
            neighbour in the order of ranks.
    """
    drawn, shuffled = random.Random(seed), list(kinds)
    drawn.shuffle(shuffled)
    blocks = []
    for record, kind in zip(ranked, shuffled, strict=False):
        count = 0 if kind == COPY else sizes[record][kind - 1]
        blocks.append(Block(record, kind if count else COPY, drawn.choice(range(count)) if count else -1))
    return blocks[::-1]


class Ike(Editor[IkeHparams]):
    """IKE; `demonstrations` among the supplies are the facts that are shown."""

    hparams_type = IkeHparams
    decoders_only = True
    batch = False

    def make(self, job: Job[IkeHparams]) -> Made:
        """What is said before the questions about one fact."""
        return _framed(job, job.requests[0], _Pool.of(job))

    def make_each(self, job: Job[IkeHparams]) -> list[Made]:
        """The same for many, the facts to be shown embedded once."""
        pool = _Pool.of(job)
        return [_framed(job, request, pool) for request in job.requests]


@dataclass(frozen=True, eq=False)
class _Pool:
    """Facts that can be shown, and their sentences as vectors."""

    facts: tuple[Fact, ...]
    vectors: Float64[Tensor, "fact width"]

    @staticmethod
    def of(job: Job[IkeHparams]) -> _Pool:
        if not job.hparams.kinds:
            return _Pool((), torch.zeros(0, 1).double())
        given = job.supplies.demonstrations
        if given is None and job.model.bundled:
            given = known_facts(job.model.bundled)
        found = several(given or (), Fact, "demonstrations", "facts with a target_new")
        usable = tuple(fact for fact in found if fact.target_new is not None and fact.answer is not None)[:_POOL]
        if not usable:
            raise UsageError(
                f"ike shows {len(job.hparams.kinds)} demonstrations and was given no facts for them; pass "
                "demonstrations=[Fact(...), ...] with their target_new, or set copies, updates and retains to 0"
            )
        return _Pool(usable, _embedded(job, [f"{fact.prompt.text} {fact.target_new}" for fact in usable]))


def _embedded(job: Job[IkeHparams], texts: Sequence[str]) -> Float64[Tensor, "text width"]:
    return embedder(job.model, job.hparams.encoder, job.model.n_layers // 2)(texts).double()


def _framed(job: Job[IkeHparams], request: EditRequest, pool: _Pool) -> Made:
    hparams, model = job.hparams, job.model
    said = f"{request.prompt.text} {request.target}"
    fact = hparams.block.replace("{fact}", said)
    shown: list[str] = []
    if pool.facts:
        query = _embedded(job, [said])[0]
        ranked = [i for i in ranking(pool.vectors, query, COSINE) if pool.facts[i].subject != request.subject]
        sizes = [(len(one.paraphrases), len(one.neighbourhood)) for one in pool.facts]
        shown = [_shown(pool.facts[b.record], b, hparams) for b in demonstrate(ranked, hparams.kinds, sizes,
                                                                               job.options.seed)]  # fmt: skip
    own = [fact.replace("{line}", said)] if hparams.shown_itself else []
    room = model.n_ctx - len(model.encode(request.prompt.text)) - _ANSWER
    while True:
        frame = hparams.between.join([*shown, *own, fact.replace("{line}", "{}")])
        if not hparams.fit or not shown or len(model.encode(frame)) <= room:
            break
        shown = shown[1:]
    scope = Mentions((request.subject,)) if hparams.scope == "subject" else None
    return Made(Demonstrations(frame, scope))


_ANSWER = 16
"""Tokens left for an answer and for a longer question."""


def _shown(fact: Fact, block: Block, hparams: IkeHparams) -> str:
    line = f"{fact.prompt.text} {fact.target_new}"
    if block.kind == UPDATE:
        line = f"{fact.paraphrases[block.chosen].text} {fact.target_new}"
    elif block.kind == RETAIN:
        neighbour: Question = fact.neighbourhood[block.chosen]
        line = f"{neighbour.text} {neighbour.answer or fact.answer}"
    return hparams.block.replace("{fact}", f"{fact.prompt.text} {fact.target_new}").replace("{line}", line)


ike = Ike("ike", "Zheng et al. 2023 (IKE)", IKE_PRESETS)
"""Say a fact before the questions: an `Editor`; call it with the model and the request."""
