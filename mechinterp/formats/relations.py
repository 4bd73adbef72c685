"""Collections by relation: LRE (Hernandez et al. 2024) and the flat CounterFact of the model hub (counterfact-tracing).

LRE is one object per file, a relation with its templates and its pairs of subject and object.  The first template is
the prompt, the others are paraphrases.
"""

from __future__ import annotations

from ..facts.prompts import Fact, Prompt, Question
from ..facts.records import BadRecord, Record
from .fields import found_prompt, numbered, texts


def lre_facts(record: Record) -> list[Fact]:
    """All facts of one relation."""
    name = record.text("name")
    templates = texts(record, "prompt_templates") or texts(record, "prompt_templates_zs")
    if not templates:
        raise BadRecord(f'{record.where} has no "prompt_templates"; add them')
    facts = []
    for i, item in enumerate(record.items("samples")):
        sample = record.within("samples", item)
        subject, answer = sample.text("subject").strip(), sample.text("object").strip()
        prompt = sample.make(Prompt, templates[0], subject, answer, id=f"{name}/{i}", relation=name)
        others = tuple(
            Question.of(sample.make(Prompt, template, subject, answer)) for template in dict.fromkeys(templates[1:])
        )
        facts.append(Fact(prompt, paraphrases=others))
    return facts


def tracing_fact(record: Record) -> Fact:
    """A record of counterfact-tracing: the sentence in two parts, the true and the false object (with their space)."""
    subject, true = record.text("subject").strip(), record.text("target_true").strip()
    if record.has("relation_prefix") or record.has("relation_suffix"):
        parts = [record.string(key) if record.has(key) else "" for key in ("relation_prefix", "relation_suffix")]
        text = "{}".join(parts)
    else:
        text = record.text("relation")
    prompt = found_prompt(
        record, text, subject, true,
        id=numbered(record, "counterfact", "case_id", "id"), relation=record.optional_text("relation_id") or "",
    )  # fmt: skip
    if record.has("prompt") and record.text("prompt").strip() != prompt.text:
        raise BadRecord(
            f"{record.where} has the prompt {record.text('prompt')[:80]!r}, and its parts make {prompt.text[:80]!r}; "
            "make them agree"
        )
    return Fact(prompt, record.text("target_false").strip() if record.has("target_false") else None)
