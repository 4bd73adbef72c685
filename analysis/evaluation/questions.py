"""What an edited model is asked: every question around a fact, with the answers weighed against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ...errors import UsageError
from ...facts.prompts import Fact, Question
from ...facts.words import tail_of
from ...models.model import Model
from .metric_table import (
    COUNTERFACT,
    DISTRACTING,
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
from .portability import Portability
from .scoring import score_answers

SCORES = ("log_prob", "prob", "correct", "accuracy", "top")
"""What is known of each answer; columns end in _true or _new."""


@dataclass(frozen=True)
class FactQuestion:
    """One question: `fact` is the fact's place in the list; an answer that is None is not asked for."""

    fact: int
    kind: str
    text: str
    true: str | None
    new: str | None


def questions(
    facts: Sequence[Fact],
    metrics: Sequence[str] = COUNTERFACT,
    portability: Mapping[str, Portability] | None = None,
) -> list[FactQuestion]:
    """All questions of all facts that some metrics need, in order.

    Args:
        facts: the facts.
        metrics: names from `METRICS`.
        portability: questions on what follows from the edit, by the fact's id.

    Raises:
        UsageError: no facts, two facts with one id, a fact without the answers that the metrics weigh, an unknown
            metric.
    """
    if not facts:
        raise UsageError("there are no facts to ask about; give at least one")
    wanted = chosen(metrics)
    kinds = {metric.kind for metric in wanted}
    contrasted = {metric.kind for metric in wanted if metric.contrasts}
    asked_for = {(metric.kind, metric.answer) for metric in wanted} | {(kind, "true") for kind in contrasted}
    asked_for |= {(kind, "new") for kind in contrasted}
    seen: set[str] = set()
    found: list[FactQuestion] = []
    for i, fact in enumerate(facts):
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
        around = portability.get(fact.id, Portability()) if portability else Portability()
        for kind, text, true in _around(fact, around):
            if kind in kinds:
                true_asked = true if (kind, "true") in asked_for else None
                new_asked = fact.target_new if (kind, "new") in asked_for else None
                if true_asked is not None or new_asked is not None:
                    found.append(FactQuestion(i, kind, text, true_asked, new_asked))
    return found


def edit_sentence(fact: Fact) -> str:
    """The statement the edit makes, as a sentence of its own."""
    assert fact.target_new is not None
    text = fact.prompt.text
    return text + tail_of(text, fact.target_new, fact.prompt.join) + "."


def _around(fact: Fact, portability: Portability) -> Iterator[tuple[str, str, str | None]]:
    """Kind, text and true answer of every question of a fact."""
    yield REWRITE, fact.prompt.text, fact.answer
    yield from _each(PARAPHRASE, fact.paraphrases, fact.answer)
    for question in fact.neighbourhood:
        yield NEIGHBOURHOOD, question.text, question.answer or fact.answer
    for prompt in fact.same_subject:
        yield SAME_SUBJECT, prompt.text, prompt.answer
    for question in fact.one_hop:
        yield ONE_HOP, question.text, question.answer
    for question in fact.neighbourhood:
        yield DISTRACTING, f"{edit_sentence(fact)} {question.text}", question.answer or fact.answer
    for kind, others in (
        (NEW_SUBJECT, portability.subject_replacement),
        (REVERSED, portability.reversed_relation),
        (NEW_ONE_HOP, portability.one_hop),
    ):
        for question in others:
            yield kind, question.text, question.answer


def _each(kind: str, others: Sequence[Question], answer: str | None) -> Iterator[tuple[str, str, str | None]]:
    for question in others:
        yield kind, question.text, answer


def pairs_of(asked: Sequence[FactQuestion]) -> list[tuple[str, str]]:
    """(text, answer) of all answers asked for: first the true ones, then the new ones."""
    pairs = [(question.text, question.true) for question in asked if question.true is not None]
    return pairs + [(question.text, question.new) for question in asked if question.new is not None]


def answer_frame(asked: Sequence[FactQuestion], scores: pd.DataFrame) -> pd.DataFrame:
    """Questions with the scores of their answers, these in the order of `pairs_of`."""
    frame = pd.DataFrame([vars(question) for question in asked], columns=["fact", "kind", "text", "true", "new"])
    start = 0
    for which in ("true", "new"):
        where = frame.index[frame[which].notna()]
        part = scores.iloc[start : start + len(where)]
        start += len(where)
        for column in SCORES:
            values = part[column] if column == "top" else part[column].astype(float)
            frame[f"{column}_{which}"] = pd.Series(values.to_numpy(), index=where, dtype=values.dtype).reindex(
                frame.index
            )
    return frame


def ask_facts(
    model: Model,
    facts: Sequence[Fact],
    metrics: Sequence[str] = COUNTERFACT,
    *,
    portability: Mapping[str, Portability] | None = None,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Ask the model as it is now.

    Returns one row per question: fact (place in the list), kind, text, true, new; and for each of the two answers
    that is asked for, with _true and _new at the end: log_prob, prob, correct, accuracy and top (see
    `score_answers`), else missing.  `prob` is exp of the mean log-probability per answer token.

    Raises:
        UsageError: see `questions`.
    """
    asked = questions(facts, metrics, portability)
    return answer_frame(asked, score_answers(model, pairs_of(asked), batch_size=batch_size))
