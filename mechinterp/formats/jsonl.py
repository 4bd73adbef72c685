"""The project's own file of facts: JSON lines, written for the user's hand and read back exactly.

The least a line can say, in either of two ways:

    {"template": "{} is in downtown", "subject": "The Space Needle", "answer": "Seattle"}
    {"prompt": "The Space Needle is in downtown", "subject": "The Space Needle", "answer": "Seattle"}

In the second the subject is searched for as whole words.  Without "answer" the model's own is taken.  All other fields
may be left out:

| field | value |
|---|---|
| id, relation, target_new | text |
| foil | text: the answer that the logit difference compares with |
| known | true or false: whether the model at hand completes the prompt correctly |
| paraphrases, neighbourhood | list of questions; a plain text is a question with the fact's answer |
| attribute | list of questions; a plain text is a question with target_new as answer |
| reverse | list of questions; a plain text is a question with the subject as answer |
| one_hop | list of questions, each with its own answer |
| same_subject | list of prompts: template or prompt, answer; id, relation, foil, and subject where written otherwise |
| generation | list of texts |
| portability | object of lists of questions: subject_replacement, reversed_relation, one_hop, logical |
| join | blanks between sentence and answer, "" for none; where it is left out a space is put where one belongs |
| turn | of a rendered chat, where the user's words stand in the template: [start, end] in characters |

A question is {"text": ..., "answer": ...}, and may have join, turn and aliases (a list of texts) too.  A field of any
other name is an error, so that a misspelt one is not silently left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..facts.prompts import Fact, Portability, Prompt, Question
from ..facts.records import BadRecord, Record
from ..facts.strict_json import fault_of
from ..runs.files import written_aside
from ..runs.terminal import brief

_PROMPT_FIELDS = ("id", "relation", "template", "prompt", "subject", "answer", "join", "turn", "foil")
_QUESTION_FIELDS = ("text", "answer", "join", "turn", "aliases")
_QUESTIONS = ("paraphrases", "neighbourhood", "attribute", "one_hop", "reverse")
_FACT_FIELDS = (*_PROMPT_FIELDS, "target_new", "known", *_QUESTIONS, "same_subject", "generation", "portability")
_PORTABILITY = tuple(vars(Portability()))


def own_fact(record: Record) -> Fact:
    """A fact from one line."""
    _only(record, _FACT_FIELDS)
    prompt = _prompt(record, record.text("subject"))
    target_new = record.optional_text("target_new")
    if record.has("attribute") and target_new is None:
        raise BadRecord(f'{record.where} has "attribute" questions and no "target_new" that they are about; add it')
    known = record.fields.get("known")
    if not (known is None or isinstance(known, bool)):
        raise BadRecord(f'the "known" of {record.where} holds {brief(known)}; write true or false')
    return Fact(
        prompt=prompt,
        target_new=target_new,
        paraphrases=_questions(record, "paraphrases", prompt.answer),
        neighbourhood=_questions(record, "neighbourhood", prompt.answer),
        attribute=_questions(record, "attribute", target_new),
        same_subject=tuple(_other_prompt(record, item, prompt.subject) for item in record.items("same_subject")),
        one_hop=_questions(record, "one_hop", alone=False),
        reverse=_questions(record, "reverse", prompt.subject),
        generation=record.texts("generation"),
        portability=_portability(record),
        known=known,
    )


def write_jsonl(facts: Sequence[Fact], path: str | Path) -> None:
    """Write facts as JSON lines that `read_jsonl` reads back as equal facts; the file is whole or not there.

    Raises:
        UsageError: no facts, two with one name, or one that could not be read back (a control character in its subject,
            half a character); the file is then as it was.
    """
    if not facts:
        raise UsageError(f"there are no facts to write to {str(path)!r}; give at least one")
    seen: set[str] = set()
    for fact in facts:
        if fact.id in seen:
            raise UsageError(f"two facts are called {fact.id!r}; give their prompts different ids before writing them")
        seen.add(fact.id)
    lines = [_line(fact, f"the fact {brief(fact.id)}") for fact in facts]
    with written_aside(path) as aside:
        aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _line(fact: Fact, called: str) -> str:
    """A fact as a line, proved by reading it back."""
    fields = _fields(fact)
    back = Record(called, fields)
    if fault := fault_of(fields):
        raise BadRecord(f"{called} {fault}; it could not be read back, so nothing was written")
    if back.make(own_fact, back) != fact:
        raise UsageError(f"{called} could not be read back as it is, so nothing was written; look at its texts")
    return json.dumps(fields, ensure_ascii=False)


def _only(record: Record, names: Sequence[str]) -> None:
    for key in record.fields:
        if key not in names:
            named = brief(key, 40)[1:-1]
            raise BadRecord(f'{record.where} has the unknown field "{named}"; the fields are {", ".join(names)}')


def _prompt(record: Record, subject: str) -> Prompt:
    """The prompt a record gives as a template, or as a sentence in which the subject is searched for."""
    if record.has("template") == record.has("prompt"):
        has = 'both "template" and' if record.has("template") else 'neither "template" nor'
        raise BadRecord(f'{record.where} has {has} "prompt"; give one of them')
    answer = record.optional_text("answer")
    id = record.name("id") if record.has("id") else ""
    relation = record.optional_text("relation") or ""
    text = record.text("template" if record.has("template") else "prompt")
    join, turn = _joined(record)
    foil = record.optional_text("foil")
    if record.has("template") or "{}" in text:
        return record.make(Prompt, text, subject, answer, id, relation, join, turn, foil)
    return record.make(Prompt.find, text, subject, answer, id=id, relation=relation, join=join, foil=foil)


def _other_prompt(record: Record, value: Any, subject: str) -> Prompt:
    """Another fact of the same subject, whose name need not be repeated."""
    other = record.within("same_subject", value)
    _only(other, _PROMPT_FIELDS)
    return _prompt(other, other.optional_text("subject") or subject)


def _questions(record: Record, key: str, usual: str | None = None, *, alone: bool = True) -> tuple[Question, ...]:
    """Questions; a plain text has the usual answer of its kind, and must not stand where there is none."""
    found = []
    for item in record.items(key):
        if isinstance(item, str) and item.strip() and alone:
            text = Record(record.where, {key: item}).text(key)
            found.append(record.make(Question, text, usual))
            continue
        if isinstance(item, str):
            raise BadRecord(
                f'the "{key}" of {record.where} holds {brief(item)} alone; write {{"text": ..., "answer": ...}}'
            )
        question = record.within(key, item)
        _only(question, _QUESTION_FIELDS)
        if "answer" not in question.fields:
            raise BadRecord(f'{question.where} has no "answer"; add it, or null for none')
        text, answer = question.text("text"), question.optional_text("answer")
        found.append(question.make(Question, text, answer, *_joined(question), question.texts("aliases")))
    return tuple(found)


def _portability(record: Record) -> Portability:
    if not record.has("portability"):
        return Portability()
    asked = record.child("portability")
    _only(asked, _PORTABILITY)
    return Portability(**{kind: _questions(asked, kind, alone=False) for kind in _PORTABILITY})


def _joined(record: Record) -> tuple[Any, Any]:
    """How the answer joins its text, and the user's turn: as written, a prompt or a question looks at both."""
    turn = record.fields.get("turn")
    return record.fields.get("join"), tuple(turn) if isinstance(turn, list) else turn


def _fields(fact: Fact) -> dict[str, Any]:
    """A fact as JSON; what is empty is left out."""
    content: dict[str, Any] = {**_prompt_fields(fact.prompt), "target_new": fact.target_new, "known": fact.known}
    for key in _QUESTIONS:
        content[key] = [_question_fields(question) for question in getattr(fact, key)]
    content["same_subject"] = [_prompt_fields(prompt) for prompt in fact.same_subject]
    content["generation"] = list(fact.generation)
    follows = {
        name: [_question_fields(one) for one in asked] for name, asked in vars(fact.portability).items() if asked
    }
    content["portability"] = follows or None
    return {key: value for key, value in content.items() if value is not None and value != []}


def _question_fields(question: Question) -> dict[str, Any]:
    aliases = {"aliases": list(question.aliases)} if question.aliases else {}
    return {"text": question.text, "answer": question.answer, **_place(question), **aliases}


def _prompt_fields(prompt: Prompt) -> dict[str, Any]:
    content = {
        "id": prompt.id,
        "relation": prompt.relation,
        "template": prompt.template,
        "subject": prompt.subject,
        "answer": prompt.answer,
        "foil": prompt.foil,
    }
    return {key: value for key, value in content.items() if value} | _place(prompt)


def _place(asked: Prompt | Question) -> dict[str, Any]:
    """How the answer joins, and where the user's turn is, as far as that was said."""
    return {key: value for key, value in (("join", asked.join), ("turn", asked.turn)) if value is not None}
