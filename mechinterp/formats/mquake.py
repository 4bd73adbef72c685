"""MQuAKE (Zhong et al. 2023): one or more edits, and a question that needs them all together with what else is known.

Each edit is a fact of its own.  The multi-hop questions stand with the fact where one edit answers them (before the
edit with the old answer, after it with the new one); where several edits are needed they are nobody's in particular:
they are left out, and it is said of how many records.
"""

from __future__ import annotations

from ..facts.prompts import Fact, Portability, Prompt, Question
from ..facts.records import BadRecord, Record
from .fields import names, numbered, question, texts


def mquake_facts(record: Record) -> list[Fact]:
    """The facts of one case, a fact for each edit."""
    rewrites = [record.within("requested_rewrite", item) for item in record.items("requested_rewrite")]
    if not rewrites:
        raise BadRecord(f'the "requested_rewrite" of {record.where} is empty; give at least one edit')
    case = numbered(record, "mquake", "case_id")
    alone = len(rewrites) == 1
    return [
        _fact(rewrite, case if alone else f"{case}/{i}", record if alone else None)
        for i, rewrite in enumerate(rewrites)
    ]


def needs_several(record: Record) -> bool:
    """Whether the questions of a case need more than one edit."""
    rewrites = record.fields.get("requested_rewrite")
    return isinstance(rewrites, list) and len(rewrites) > 1 and record.has("questions")


def _fact(rewrite: Record, id: str, case: Record | None) -> Fact:
    true = rewrite.child("target_true").text("str").strip() if rewrite.has("target_true") else None
    asked = texts(rewrite, "question")
    before: tuple[Question, ...] = ()
    after: tuple[Question, ...] = ()
    if case is not None:
        for text in texts(case, "questions"):
            before += question(case, text, names(case, "answer") + names(case, "answer_alias"))
            after += question(case, text, names(case, "new_answer") + names(case, "new_answer_alias"))
    return Fact(
        prompt=rewrite.make(
            Prompt,
            rewrite.text("prompt").strip(),
            rewrite.text("subject").strip(),
            true,
            id=id,
            relation=rewrite.optional_text("relation_id") or "",
        ),
        target_new=rewrite.child("target_new").text("str").strip(),
        paraphrases=tuple(rewrite.make(Question, text, true) for text in asked),
        one_hop=before,
        portability=Portability(one_hop=after),
    )
