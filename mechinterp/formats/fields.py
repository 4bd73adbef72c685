"""What the published shapes have in common: answers with other names, questions with or without a subject of their own.

A blank at the end of a published text is taken off: it belongs to the file and not to the sentence.  A question whose
answer is missing or empty cannot be judged, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import UsageError
from ..facts.prompts import Prompt, Question
from ..facts.records import BadRecord, Record
from ..runs.terminal import brief


def found_prompt(
    record: Record, text: str, subject: str, answer: str | None, *, id: str = "", relation: str = ""
) -> Prompt:
    """A prompt from a template with `{}`, or from a sentence in which the subject stands once as whole words."""
    text, subject = text.strip(), subject.strip()
    if "{}" in text:
        return record.make(Prompt, text, subject, answer, id, relation)
    return record.make(Prompt.find, text, subject, answer, id=id, relation=relation)


def names(record: Record, key: str) -> tuple[str, ...]:
    """An answer and its other names: a text, a list of texts, or a list of such lists; nothing where there is none.

    Raises:
        BadRecord: something else.
    """
    found: list[str] = []
    left = [record.fields.get(key)]
    while left:
        value = left.pop(0)
        if isinstance(value, list):
            left = [*value, *left]
        elif isinstance(value, str):
            found += [value.strip()] * bool(value.strip())
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append(str(value))
        elif value is not None:
            raise BadRecord(f'the "{key}" of {record.where} holds {brief(value)}, which is no answer; write words')
    return tuple(dict.fromkeys(found))


def first(record: Record, key: str) -> str | None:
    """The first name of an answer, or None."""
    return next(iter(names(record, key)), None)


def needed(record: Record, key: str) -> str:
    """The first name of an answer that must be there."""
    answer = first(record, key)
    if answer is None:
        raise BadRecord(f'{record.where} has no "{key}"; add it')
    return answer


def texts(record: Record, key: str) -> tuple[str, ...]:
    """A text or a list of texts; nothing where there is none."""
    value = record.fields.get(key)
    listed = value if isinstance(value, list) else [] if value is None or value == "" else [value]
    return tuple(Record(record.where, {key: text}, record.number).text(key).strip() for text in listed)


def question(record: Record, text: str, answers: Iterable[str]) -> tuple[Question, ...]:
    """A question with its answer and the answer's other names; none without an answer."""
    answer, *aliases = [*answers] or [""]
    return (record.make(Question, text, answer, aliases=tuple(aliases)),) if answer else ()


def around(record: Record, asked: Iterable[Question], subject: str) -> dict[str, Any]:
    """Questions on what an edit should leave alone, as fields of a `Fact`.

    Those in which the fact's subject stands are other facts of the same subject, the others are neighbours.
    """
    same, others = [], []
    for one in asked:
        try:
            same.append(Prompt.find(one.text, subject, one.answer))
        except UsageError:  # it does not stand there, or not once: nothing is known of where
            others.append(one)
    return {"same_subject": tuple(same), "neighbourhood": tuple(others)}


def numbered(record: Record, collection: str, *keys: str) -> str:
    """A name for a record's fact: by the first identifier it has, else by its place in the file."""
    own = next((record.name(key) for key in keys if record.has(key)), None)
    return f"{collection}/{record.number - 1 if own is None else own}"
