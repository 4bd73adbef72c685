"""Portability: what follows from an edit, asked with the answers that hold once it is made (Yao et al. 2023).

Three kinds of question: the edited sentence with another name of the subject, the relation asked from the new object,
and one step further from the new object.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from ...facts.prompts import Fact, Facts, Portability, Question, facts_of
from ...given import Names, names_of
from ...public import public


@public
def portability_of(
    facts: Facts, known: Facts | None = None, *, aliases: Mapping[str, Names] | None = None
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
        fact id -> questions; those that a fact brings itself, else those that follow, and a kind for which nothing
        follows is empty.
    """
    conclusions: dict[tuple[str, str | None], dict[str, str]] = defaultdict(dict)
    facts = facts_of(facts)
    for fact in facts_of(known) if known is not None else facts:
        for question in fact.one_hop:
            if question.answer is not None:
                conclusions[fact.relation, fact.answer].setdefault(_template(question.text, fact), question.answer)
    return {
        fact.id: fact.portability | _portability(fact, conclusions[fact.relation, fact.target_new], aliases or {})
        for fact in facts
    }


def _portability(fact: Fact, concluded: Mapping[str, str], aliases: Mapping[str, Names]) -> Portability:
    answer, target = fact.answer, fact.target_new
    return Portability(
        subject_replacement=tuple(
            Question.of(replace(fact.prompt, subject=name, answer=target))
            for name in names_of(aliases.get(fact.subject, ()), "aliases")
        ),
        reversed_relation=tuple(
            Question(question.text.replace(answer, target), fact.subject, question.join)
            for question in fact.reverse
            if answer is not None and target is not None and answer in question.text
        ),
        one_hop=tuple(
            replace(question, answer=concluded[template])
            for question in fact.one_hop
            if (template := _template(question.text, fact)) in concluded
        ),
    )


def _template(text: str, fact: Fact) -> str:
    return text.replace(fact.subject, "{}")
