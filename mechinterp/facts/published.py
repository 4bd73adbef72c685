"""The two published collections of Meng et al. 2022 (ROME): known_1000 and CounterFact, as they were released."""

from __future__ import annotations

from ..errors import UsageError
from .prompts import Fact, Prompt, Question
from .records import Record


def known_fact(record: Record) -> Fact:
    """A record of known_1000: facts that GPT-2 XL completes correctly, for causal tracing.

    In four records out of ten `prompt` goes on after the filled template ("... located in the continent" - "of"), up
    to just before the attribute; the prompt is what was traced, so the template is taken with that continuation.
    """
    subject = record.text("subject")
    short = prompt_of(record, record.text("template"), subject, None)
    text = record.text("prompt")
    if not text.startswith(short.text):
        raise UsageError(
            f"{record.where} has the prompt {text!r}, which does not begin with its template filled in, "
            f"{short.text!r}; make them agree"
        )
    return Fact(
        prompt_of(
            record,
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
        prompt=prompt_of(
            rewrite,
            rewrite.text("prompt"),
            rewrite.text("subject"),
            true,
            id=f"counterfact/{record.name('case_id')}",
            relation=rewrite.optional_text("relation_id") or "",
        ),
        target_new=new,
        paraphrases=tuple(Question(text, true) for text in record.texts("paraphrase_prompts")),
        neighbourhood=tuple(Question(text, true) for text in record.texts("neighborhood_prompts")),
        attribute=tuple(Question(text, new) for text in record.texts("attribute_prompts")),
        generation=record.texts("generation_prompts"),
    )


def prompt_of(
    record: Record, template: str, subject: str, answer: str | None, *, id: str = "", relation: str = ""
) -> Prompt:
    """A prompt whose faults are told with the record they stand in."""
    try:
        return Prompt(template, subject, answer, id, relation)
    except UsageError as error:
        raise UsageError(f"{record.where}: {error}") from error
