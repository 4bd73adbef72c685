"""The two published collections of Meng et al. 2022 (ROME): known_1000 and CounterFact, as they were released."""

from __future__ import annotations

from ..facts.prompts import Fact, Prompt, Question
from ..facts.records import BadRecord, Record
from ..runs.terminal import brief


def known_fact(record: Record) -> Fact:
    """A record of known_1000: facts that GPT-2 XL completes correctly, for causal tracing.

    In four records out of ten `prompt` goes on after the filled template ("... located in the continent" - "of"), up
    to just before the attribute; the prompt is what was traced, so the template is taken with that continuation.
    """
    subject = record.text("subject")
    short = record.make(Prompt, record.text("template"), subject)
    text = record.text("prompt")
    if not text.startswith(short.text):
        raise BadRecord(
            f"{record.where} has the prompt {brief(text)}, which does not begin with its template filled in, "
            f"{brief(short.text)}; make them agree"
        )
    return Fact(
        record.make(
            Prompt,
            short.template + text[len(short.text) :],
            subject,
            record.text("attribute"),
            id=f"known_1000/{record.name('known_id')}",
            relation=record.optional_text("relation_id") or "",
        )
    )


def counterfact_fact(record: Record) -> Fact:
    """A record of CounterFact: a counterfactual edit and the questions that judge it.

    Paraphrases and neighbourhood prompts have the true object as answer, attribute prompts (present in the full
    release only) the new one, which is true of their subjects.
    """
    rewrite = record.child("requested_rewrite")
    true, new = rewrite.child("target_true").text("str"), rewrite.child("target_new").text("str")
    return Fact(
        prompt=rewrite.make(
            Prompt,
            rewrite.text("prompt"),
            rewrite.text("subject"),
            true,
            id=f"counterfact/{record.name('case_id')}",
            relation=rewrite.optional_text("relation_id") or "",
        ),
        target_new=new,
        paraphrases=_questions(record, "paraphrase_prompts", true),
        neighbourhood=_questions(record, "neighborhood_prompts", true),
        attribute=_questions(record, "attribute_prompts", new),
        generation=record.texts("generation_prompts"),
    )


def _questions(record: Record, key: str, answer: str) -> tuple[Question, ...]:
    return tuple(record.make(Question, text, answer) for text in record.texts(key))
