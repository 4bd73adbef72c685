"""Questions in natural language: zsRE (Levy et al. 2017, in the shape of MEND and ROME) and WikiBigEdit.

What stands for what: the question is the prompt, its rephrasing (and WikiBigEdit's persona) a paraphrase, the unrelated
question a neighbour with its own answer, as written ("nq question: " included).  zsRE's edit writes `alt`, as MEND and
EasyEdit do (ROME's evaluation writes the true answer, `answers[0]`, instead); `pred` and `cond` are not used.
EasyEdit's portability file adds a question one step further.
"""

from __future__ import annotations

from ..facts.prompts import Fact, Portability, Question
from ..facts.records import Record
from .fields import first, found_prompt, names, needed, numbered, question, texts


def zsre_fact(record: Record) -> Fact:
    """A record of zsRE, with or without portability."""
    answer = first(record, "answers")
    return Fact(
        prompt=found_prompt(
            record, record.text("src"), record.text("subject"), answer, id=numbered(record, "zsre", "case_id", "id")
        ),
        target_new=needed(record, "alt"),
        paraphrases=_paraphrases(record, answer, "rephrase"),
        neighbourhood=_unrelated(record),
        portability=_further(record),
    )


def wikibigedit_fact(record: Record) -> Fact:
    """A record of WikiBigEdit (Thede et al. 2025): the answer before the update is not in it."""
    step = question(record, record.text("mhop").strip(), names(record, "mhop_ans")) if record.has("mhop") else ()
    return Fact(
        prompt=found_prompt(
            record,
            record.text("update"),
            record.text("subject"),
            first(record, "ground_truth"),
            id=numbered(record, "wikibigedit", "id"),
        ),
        target_new=needed(record, "ans"),
        paraphrases=_paraphrases(record, first(record, "ground_truth"), "rephrase", "personas"),
        neighbourhood=_unrelated(record),
        portability=Portability(one_hop=step),
    )


def _paraphrases(record: Record, answer: str | None, *keys: str) -> tuple[Question, ...]:
    return tuple(record.make(Question, text, answer) for key in keys for text in texts(record, key))


def _unrelated(record: Record) -> tuple[Question, ...]:
    if not record.has("loc"):
        return ()
    return question(record, record.text("loc").strip(), names(record, "loc_ans"))


def _further(record: Record) -> Portability:
    """EasyEdit's question one step further from the new object."""
    if not record.has("portability"):
        return Portability()
    asked = record.child("portability")
    if not asked.has("New Question"):
        return Portability()
    return Portability(one_hop=question(asked, asked.text("New Question").strip(), names(asked, "New Answer")))
