"""What an edited model is asked: every question around a fact, with the answers weighed against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ...errors import UsageError
from ...facts.prompts import Fact, Facts, Portability, Question, facts_of
from ...facts.words import tail_of
from ...given import Names
from ...models.model import Model
from ...public import public
from .metric_table import (
    COUNTERFACT,
    DISTRACTING,
    LOGICAL,
    NEIGHBOURHOOD,
    NEW_ONE_HOP,
    NEW_SUBJECT,
    ONE_HOP,
    PARAPHRASE,
    REVERSED,
    REWRITE,
    SAME_SUBJECT,
    chosen,
)
from .scoring import score_answers

SCORES = ("log_prob", "prob", "correct", "accuracy", "top", "scored", "splits")
"""What is known of each answer; columns end in _true or _new."""

_OBJECTS = ("top", "scored")
"""Those that are no numbers."""


@dataclass(frozen=True)
class FactQuestion:
    """One question: `fact` is the fact's place in the list; an answer that is None is not asked for.

    `join` is what stands between the text and either answer; None: a space where one belongs.
    """

    fact: int
    kind: str
    text: str
    true: str | None
    new: str | None
    join: str | None = None


def questions(
    facts: Facts,
    metrics: Names = COUNTERFACT,
    portability: Mapping[str, Portability] | None = None,
) -> list[FactQuestion]:
    """All questions of all facts that some metrics need, in order.

    Args:
        facts: the facts.
        metrics: names from `METRICS`.
        portability: questions on what follows from the edit, by the fact's id; default: the facts' own.

    Raises:
        UsageError: no facts, two facts with one id, a fact without the answers that the metrics weigh, an unknown
            metric.
    """
    asked_facts = facts_of(facts)
    if not asked_facts:
        raise UsageError("there are no facts to ask about; give at least one")
    wanted = chosen(metrics)
    kinds = {metric.kind for metric in wanted}
    contrasted = {metric.kind for metric in wanted if metric.contrasts}
    asked_for = {(metric.kind, metric.answer) for metric in wanted} | {(kind, "true") for kind in contrasted}
    asked_for |= {(kind, "new") for kind in contrasted}
    seen: set[str] = set()
    found: list[FactQuestion] = []
    for i, fact in enumerate(asked_facts):
        if fact.id in seen:
            raise UsageError(f"two facts are called {fact.id!r}; give their prompts different ids")
        seen.add(fact.id)
        if fact.target_new is None:
            raise UsageError(
                f"the fact {fact.id!r} lacks target_new, the object the edit writes; it is needed to judge an edit"
            )
        if fact.answer is None and {REWRITE, PARAPHRASE} & contrasted:
            raise UsageError(
                f"the fact {fact.id!r} lacks the true answer, which the new one is weighed against; give it, or "
                "choose metrics that do without (zsRE's, for example)"
            )
        around = fact.portability if portability is None else portability.get(fact.id, fact.portability)
        for kind, question, true in _around(fact, around):
            if kind in kinds:
                true_asked = true if (kind, "true") in asked_for else None
                new_asked = fact.target_new if (kind, "new") in asked_for else None
                if true_asked is not None or new_asked is not None:
                    found.append(FactQuestion(i, kind, question.text, true_asked, new_asked, question.join))
    return found


def edit_sentence(fact: Fact) -> str:
    """The statement the edit makes, as a sentence of its own (of a chat, in the user's words)."""
    assert fact.target_new is not None
    words = Question.of(fact.prompt).words
    return words + tail_of(words, fact.target_new, None if fact.prompt.turn else fact.prompt.join) + "."


def _around(fact: Fact, portability: Portability) -> Iterator[tuple[str, Question, str | None]]:
    """Kind, question and true answer of every question of a fact."""
    yield REWRITE, Question.of(fact.prompt), fact.answer
    for question in fact.paraphrases:
        yield PARAPHRASE, question, fact.answer
    for question in fact.neighbourhood:
        yield NEIGHBOURHOOD, question, question.answer or fact.answer
    for prompt in fact.same_subject:
        yield SAME_SUBJECT, Question.of(prompt), prompt.answer
    for question in fact.one_hop:
        yield ONE_HOP, question, question.answer
    for question in fact.neighbourhood:
        yield DISTRACTING, question.after(edit_sentence(fact)), question.answer or fact.answer
    for kind, others in (
        (NEW_SUBJECT, portability.subject_replacement),
        (REVERSED, portability.reversed_relation),
        (NEW_ONE_HOP, portability.one_hop),
        (LOGICAL, portability.logical),
    ):
        for question in others:
            yield kind, question, question.answer


def pairs_of(asked: Sequence[FactQuestion]) -> list[Question]:
    """All answers asked for behind their texts: first the true ones, then the new ones."""
    true = [Question(one.text, one.true, one.join) for one in asked if one.true is not None]
    return true + [Question(one.text, one.new, one.join) for one in asked if one.new is not None]


def answer_frame(asked: Sequence[FactQuestion], scores: pd.DataFrame) -> pd.DataFrame:
    """Questions with the scores of their answers, these in the order of `pairs_of`."""
    frame = pd.DataFrame([vars(question) for question in asked], columns=["fact", "kind", "text", "true", "new"])
    start = 0
    for which in ("true", "new"):
        where = frame.index[frame[which].notna()]
        part = scores.iloc[start : start + len(where)]
        start += len(where)
        for column in SCORES:
            values = part[column] if column in _OBJECTS else part[column].astype(float)
            frame[f"{column}_{which}"] = pd.Series(values.to_numpy(), index=where, dtype=values.dtype).reindex(
                frame.index
            )
    return frame


@public
def ask_facts(
    model: Model,
    facts: Facts,
    metrics: Names = COUNTERFACT,
    *,
    portability: Mapping[str, Portability] | None = None,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Ask the model as it is now.

    Returns one row per question: fact (place in the list), kind, text, true, new; and for each of the two answers
    that is asked for, with _true and _new at the end: log_prob, prob, correct, accuracy, top, scored and splits (see
    `score_answers`), else missing.  `prob` is exp of the mean log-probability per answer token.

    Raises:
        UsageError: see `questions`.
    """
    asked = questions(facts, metrics, portability)
    return answer_frame(asked, score_answers(model, pairs_of(asked), batch_size=batch_size))
