"""What an edited model is asked: every question of a fact, with the answers weighed against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ..errors import UsageError
from ..models import Model
from ..prompts import Fact
from .scoring import score

REWRITE = "rewrite"
PARAPHRASE = "paraphrase"
NEIGHBOURHOOD = "neighbourhood"
SAME_SUBJECT = "same_subject"
ONE_HOP = "one_hop"

CONTRASTED = (REWRITE, PARAPHRASE, NEIGHBOURHOOD)
"""Kinds that weigh the true object against the new one; the others ask for one answer."""


@dataclass(frozen=True)
class Asked:
    """One question: `fact` is the fact's place in the list, `new` is None where one answer is asked for."""

    fact: int
    kind: str
    text: str
    true: str
    new: str | None


def questions(facts: Sequence[Fact]) -> list[Asked]:
    """All questions of all facts, in order.

    Raises:
        UsageError: no facts, two facts with one id, or a fact without its answer or the new object.
    """
    if not facts:
        raise UsageError("there are no facts to ask about; give at least one")
    seen: set[str] = set()
    asked: list[Asked] = []
    for i, fact in enumerate(facts):
        if fact.id in seen:
            raise UsageError(f"two facts are called {fact.id!r}; give their prompts different ids")
        seen.add(fact.id)
        if fact.answer is None or fact.target_new is None:
            lacking = "the true answer" if fact.answer is None else "target_new, the object the edit writes"
            raise UsageError(f"the fact {fact.id!r} lacks {lacking}; both are needed to judge an edit")
        true, new = fact.answer, fact.target_new
        asked.append(Asked(i, REWRITE, fact.prompt.text, true, new))
        asked += [Asked(i, PARAPHRASE, other.text, true, new) for other in fact.paraphrases]
        asked += [Asked(i, NEIGHBOURHOOD, other.text, other.answer or true, new) for other in fact.neighbourhood]
        for kind, others in ((SAME_SUBJECT, fact.same_subject), (ONE_HOP, fact.one_hop)):
            asked += [Asked(i, kind, other.text, other.answer, None) for other in others if other.answer]
    return asked


def ask(model: Model, facts: Sequence[Fact], *, batch_size: int = 64) -> pd.DataFrame:
    """Ask the model as it is now.

    Returns one row per question: fact (place in the list), kind, text, true, new; log_prob_true, prob_true,
    correct_true and, for the questions that weigh two answers, log_prob_new, prob_new, correct_new (else
    missing). `prob` is exp of the mean log-probability per answer token.
    """
    asked = questions(facts)
    contrasted = [question for question in asked if question.new is not None]
    pairs = [(question.text, question.true) for question in asked]
    pairs += [(question.text, question.new) for question in contrasted if question.new is not None]
    scores = score(model, pairs, batch_size=batch_size)
    frame = pd.DataFrame([vars(question) for question in asked])
    where = [i for i, question in enumerate(asked) if question.new is not None]
    for column in ("log_prob", "prob", "correct"):
        values = scores[column].astype(float).to_numpy()
        frame[f"{column}_true"] = values[: len(asked)]
        frame[f"{column}_new"] = pd.Series(values[len(asked) :], index=where, dtype=float).reindex(frame.index)
    return frame
