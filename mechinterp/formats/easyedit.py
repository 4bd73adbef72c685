"""EasyEdit's flat records, KnowEdit (Zhang et al. 2024), QAEdit (Yang et al. 2025), request lists of rome and memit.

A record is a prompt (a template, or a sentence in which the subject is found), a subject and a target; around it may
stand the old object, rephrasings, questions on what should stay (locality) and on what follows (portability).  WikiBio
calls the first three text, concept and labels.
"""

from __future__ import annotations

from typing import Any

from ..facts.prompts import Fact, Portability, Question
from ..facts.records import BadRecord, Record
from ..runs.terminal import brief
from .fields import around, first, found_prompt, names, needed, numbered, question, texts

MARKS = ("ground_truth", "rephrase_prompt", "rephrase", "locality_prompt", "locality", "labels")
"""One of these is in a record of EasyEdit's, and in none of the user's own."""

_PORTABILITY = {
    "Subject_Aliasing": "subject_replacement",
    "Reasoning": "one_hop",
    "Logical_Generalization": "logical",
    "one_hop": "one_hop",
}
"""KnowEdit's kinds of question on what follows, and ours."""


def request_fact(record: Record) -> Fact:
    """A request of the published rome and memit: template, subject, {"str": target}."""
    target = record.child("target_new").text("str").strip()
    true = record.child("target_true").text("str").strip() if record.has("target_true") else None
    prompt = found_prompt(
        record,
        record.text("prompt"),
        record.text("subject"),
        true,
        id=numbered(record, "request", "case_id", "id"),
        relation=record.optional_text("relation_id") or "",
    )
    return Fact(prompt, target)


def easyedit_fact(record: Record) -> Fact:
    """A flat record, whichever of EasyEdit's files it is from."""
    text = record.text("prompt" if record.has("prompt") else "text")
    subject = record.text("subject" if record.has("subject") else "concept")
    answer = first(record, "ground_truth")
    rephrased = [text for key in ("rephrase_prompt", "rephrase") for text in texts(record, key)]
    kept = [*_asked(record, "locality")]
    if record.has("locality_prompt"):
        kept += question(record, record.text("locality_prompt").strip(), names(record, "locality_ground_truth"))
    return Fact(
        prompt=found_prompt(
            record,
            text,
            subject,
            answer,
            id=numbered(record, "easyedit", "case_id", "id"),
            relation=record.optional_text("relation_id") or "",
        ),
        target_new=needed(record, "target_new" if record.has("target_new") else "labels"),
        paraphrases=tuple(record.make(Question, text, answer) for text in rephrased),
        portability=_portability(record),
        **around(record, kept, subject),
    )


def _portability(record: Record) -> Portability:
    if not record.has("portability"):
        return Portability()
    held = record.child("portability")
    if held.has("New Question"):
        return Portability(one_hop=question(held, held.text("New Question").strip(), names(held, "New Answer")))
    kinds: dict[str, tuple[Question, ...]] = {}
    for kind in held.fields:
        if kind not in _PORTABILITY:
            raise BadRecord(
                f'the "portability" of {record.where} has the kind {brief(kind, 40)}; known are '
                f"{', '.join(_PORTABILITY)}"
            )
        kinds[_PORTABILITY[kind]] = kinds.get(_PORTABILITY[kind], ()) + _listed(held, kind)
    return Portability(**kinds)


def _asked(record: Record, key: str) -> tuple[Question, ...]:
    """All questions of an object of kinds."""
    if not record.has(key):
        return ()
    held = record.child(key)
    return tuple(one for kind in held.fields for one in _listed(held, kind))


def _listed(record: Record, kind: str) -> tuple[Question, ...]:
    """The questions of one kind: a list of objects, or one object."""
    value: Any = record.fields[kind]
    found: tuple[Question, ...] = ()
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        held = record.within(kind, item)
        prompts = texts(held, "prompt")
        answers = held.fields.get("ground_truth")
        if len(prompts) > 1:  # lists side by side
            if not isinstance(answers, list) or len(answers) != len(prompts):
                raise BadRecord(f'{held.where} has {len(prompts)} prompts and another number of "ground_truth"')
            each = [names(Record(held.where, {"ground_truth": one}), "ground_truth") for one in answers]
        else:
            each = [names(held, "ground_truth")]
        for prompt, answer in zip(prompts, each, strict=False):
            found += question(held, prompt, answer)
    return found
