"""RippleEdits (Cohen et al. 2024): an edit as a sentence, and six kinds of question around it.

The file names subject and object by Wikidata's ids only, so both are read off the sentence: the object is what follows
the words that the edit and its original have in common (or what follows the last " is "), the subject what stands
between the relation's name and them ("The name of the *country of citizenship* of Ada Holm is").  A sentence of
another build has no subject that could be told, and is refused by record; a "subject" in its edit is taken as it is.
"""

from __future__ import annotations

import os.path
import re

from ..facts.prompts import Fact, Portability, Question
from ..facts.records import BadRecord, Record
from .fields import around, found_prompt, names, numbered, question, texts

FOLLOWS = {
    "Logical_Generalization": "logical",
    "Subject_Aliasing": "subject_replacement",
    "Compositionality_I": "one_hop",
    "Compositionality_II": "one_hop",
}
STAYS = ("Relation_Specificity", "Forgetfulness")


def ripple_fact(record: Record) -> Fact:
    """A record of popular, random or recent."""
    edit = record.child("edit")
    sentence, true, new = _parts(edit)
    subject = edit.text("subject").strip() if edit.has("subject") else _subject(edit, sentence)
    kinds: dict[str, tuple[Question, ...]] = {}
    for kind, ours in FOLLOWS.items():
        kinds[ours] = kinds.get(ours, ()) + _queries(record, kind)
    stays = [one for kind in STAYS for one in _queries(record, kind)]
    prompt = found_prompt(
        edit, sentence, subject, true,
        id=numbered(record, "ripple", "id"), relation=edit.optional_text("relation") or "",
    )  # fmt: skip
    return Fact(prompt, new, portability=Portability(**kinds), **around(record, stays, subject))


def _parts(edit: Record) -> tuple[str, str | None, str]:
    """The sentence up to its object, the old object and the new one."""
    text = edit.text("prompt").strip().removesuffix(".")
    if not edit.has("original_fact"):
        sentence, found, new = text.rpartition(" is ")
        if not (found and new.strip()):
            raise BadRecord(f'{edit.where} has the sentence {text[:80]!r} without " is ", so its object cannot be told')
        return f"{sentence} is", None, new.strip()
    old = edit.child("original_fact").text("prompt").strip().removesuffix(".")
    shared = os.path.commonprefix([text, old])
    shared = shared[: shared.rfind(" ") + 1]
    true, new = old[len(shared) :].strip(), text[len(shared) :].strip()
    if not (shared.strip() and true and new):
        raise BadRecord(
            f"{edit.where} has the sentences {text[:80]!r} and {old[:80]!r}, which do not share their beginning, so "
            "that the object cannot be told"
        )
    head, found, rest = shared.rpartition(" is ")
    if found and rest.strip():  # objects that begin alike ("the Duke of ..."): all of them follows " is "
        return f"{head} is", old[len(head) + len(found) :].strip(), text[len(head) + len(found) :].strip()
    return shared.strip(), true, new


def _subject(edit: Record, sentence: str) -> str:
    relation = (edit.optional_text("relation") or "").replace("_", " ")
    found = re.fullmatch(rf"The (?:name|names) of the {re.escape(relation)} of (.+) (?:is|are)", sentence, re.I)
    if not relation or found is None:
        raise BadRecord(
            f'{edit.where} has the sentence {sentence[:80]!r}, in which its subject cannot be told; add "subject"'
        )
    return found[1].strip()


def _queries(record: Record, kind: str) -> tuple[Question, ...]:
    """The test questions of one kind."""
    found: tuple[Question, ...] = ()
    for item in record.items(kind):
        test = record.within(kind, item)
        for asked in test.items("test_queries"):
            query = test.within("test_queries", asked)
            given = [query.within("answers", answer) for answer in query.items("answers")]
            answers = [name for one in given for name in names(one, "value") + names(one, "aliases")]
            for text in texts(query, "prompt" if query.has("prompt") else "phrase"):
                found += question(query, text, answers)
    return found
