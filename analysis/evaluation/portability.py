"""Portability: what follows from an edit, asked with the answers that hold once it is made (Yao et al. 2023).

Three kinds of question: the edited sentence with another name of the subject, the relation asked from the new object,
and one step further from the new object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...facts.prompts import Fact, Question


@dataclass(frozen=True)
class Portability:
    """Questions on what follows from one edit; every answer is the one that holds after it.

    Args:
        subject_replacement: the edited statement about the subject under another name; answer: the new object.
        reversed_relation: asked from the new object; answer: the subject.
        one_hop: asked about the subject, one step beyond the new object.
    """

    subject_replacement: tuple[Question, ...] = ()
    reversed_relation: tuple[Question, ...] = ()
    one_hop: tuple[Question, ...] = ()


def portability_of(
    facts: Sequence[Fact], known: Sequence[Fact] | None = None, *, aliases: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Portability]:
    """Portability questions, as far as they follow from the facts themselves.

    The reversed question is the fact's own with the new object in place of the true one.  One step further, the answer
    is taken from a fact whose object is the new one already and which is asked the same question: where Ada is moved
    from Lund to Turku and Bo was born in Turku, "the country where Ada was born" is what it is for Bo.

    Args:
        facts: to be edited, with answer and target_new.
        known: facts to draw conclusions from; default: `facts`.
        aliases: other names of subjects.

    Returns:
        fact id -> questions; a kind for which nothing follows is empty.
    """
    conclusions: dict[tuple[str, str | None], dict[str, str]] = defaultdict(dict)
    for fact in known if known is not None else facts:
        for question in fact.one_hop:
            if question.answer is not None:
                conclusions[fact.relation, fact.answer].setdefault(_template(question.text, fact), question.answer)
    return {fact.id: _portability(fact, conclusions[fact.relation, fact.target_new], aliases or {}) for fact in facts}


def _portability(fact: Fact, concluded: Mapping[str, str], aliases: Mapping[str, Sequence[str]]) -> Portability:
    answer, target = fact.answer, fact.target_new
    return Portability(
        subject_replacement=tuple(
            Question(fact.prompt.template.replace("{}", name), target) for name in aliases.get(fact.subject, ())
        ),
        reversed_relation=tuple(
            Question(question.text.replace(answer, target), fact.subject)
            for question in fact.reverse
            if answer is not None and target is not None and answer in question.text
        ),
        one_hop=tuple(
            Question(question.text, concluded[template])
            for question in fact.one_hop
            if (template := _template(question.text, fact)) in concluded
        ),
    )


def _template(text: str, fact: Fact) -> str:
    return text.replace(fact.subject, "{}")
