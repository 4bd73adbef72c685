"""Look after: which facts an edit changed, by how much, and in whose favour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from ...editing import Edit
from ...editing.edits.row_edits import RowEdits
from ...facts.prompts import Fact, Facts, Question, facts_of
from ...models.model import Model
from ...public import public
from ...runs.progress import progress_bar
from ..evaluation.answer_rows import AnswerRows
from ..evaluation.row_scoring import score_under_edits
from ..evaluation.scoring import score_rows
from ..evaluation.under_edits import asked_under, carried_by_rows
from .known_facts import Edits, facts_of_edits, kin_of, made_edits, requests_of

NEW_TARGET = "the edit's object"
OWN_ANSWER = "its own answer"
ANOTHER = "another word"
FAVOURED = (NEW_TARGET, OWN_ANSWER, ANOTHER)
"""What a changed fact is answered with now."""

EDITS_AT_ONCE = 64
"""Edits that share their forwards."""


@public
def diff(
    model: Model,
    edits: Edits,
    facts: Facts,
    *,
    sample: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    progress: bool = False,
) -> pd.DataFrame:
    """Ask facts before and after edits.

    Args:
        model: the unedited model.
        edits: one, or several that are looked at singly (many at a time, each row of a batch under its own); `Failed`
            ones are passed over.
        facts: facts with answers.
        sample: ask each edit about this many facts, its own seeded choice (that of `forecast`); default: about all.
        seed: of the choice.
        batch_size: rows per forward.
        progress: show a bar over edits.

    Returns:
        One row per edit and fact: edit (its number), record, relation, kin ("edited", "same subject", "same relation",
        "other"), prompt, answer; top_before, top_after: the model's next token, prob_before, prob_after: its
        probability; changed: whether it is another token now; favour: what stands there instead ("the edit's object",
        "its own answer", "another word"; "" where nothing changed); log_prob_before, log_prob_after: of the fact's
        answer, per token (nats); fall: by how much that fell; correct_before, correct_after: each of its tokens is the
        most probable one.

    Raises:
        UsageError: no edit, no facts or facts without answers, or an edit of another model.
    """
    made, facts = made_edits(edits), facts_of(facts)
    asked = facts_of_edits(made, facts, sample, seed)
    rows = AnswerRows.of(model, [Question.of(fact.prompt) for fact in facts])
    numbers = list(made)
    parts = []
    with progress_bar("looking at edits", len(numbers), shown=progress) as advance:
        for start in range(0, len(numbers), EDITS_AT_ONCE):
            some = numbers[start : start + EDITS_AT_ONCE]
            before, afters = _scores(model, rows, [(made[i], asked[i]) for i in some], batch_size)
            for number, after in zip(some, afters, strict=True):
                parts.append(_table(model, number, made[number], facts, asked[number], before, after))
            advance(len(some))
    return pd.concat(parts, ignore_index=True)


def _scores(
    model: Model, rows: AnswerRows, asked: Sequence[tuple[Edit, list[int]]], batch_size: int
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """The scores of all answers without an edit, and of those asked about each edit under it."""
    carried = [(edit, answers) for edit, answers in asked if carried_by_rows(edit)]
    if carried:
        entries = [(answer, number) for number, (_, answers) in enumerate(carried) for answer in answers]
        edits = RowEdits([edit for edit, _ in carried])
        before, together = score_under_edits(model, rows, edits, entries, batch_size=batch_size)
    else:
        before = score_rows(model, rows, batch_size=batch_size)
    found, start = [], 0
    for edit, answers in asked:
        if carried_by_rows(edit):
            found.append(together.iloc[start : start + len(answers)].reset_index(drop=True))
            start += len(answers)
        else:
            with asked_under(edit, model) as asked_model:
                rows_asked = rows.of_model(asked_model, answers)
                found.append(score_rows(asked_model, rows_asked, batch_size=batch_size))
    return before, found


def _table(
    model: Model,
    number: int,
    edit: Edit,
    facts: Sequence[Fact],
    asked: list[int],
    before: pd.DataFrame,
    after: pd.DataFrame,
) -> pd.DataFrame:
    chosen = [facts[i] for i in asked]
    before = before.iloc[asked].reset_index(drop=True)
    old, new = ([top[0] for top in scores["top"]] for scores in (before, after))
    targets = {request.target for request in requests_of(edit)}
    return pd.DataFrame(
        {
            "edit": number,
            "record": [fact.id for fact in chosen],
            "relation": [fact.relation for fact in chosen],
            "kin": kin_of(edit, chosen),
            "prompt": [fact.prompt.text for fact in chosen],
            "answer": [fact.answer for fact in chosen],
            "top_before": [model.decode([token]).strip() for token in old],
            "top_after": [model.decode([token]).strip() for token in new],
            "prob_before": before["top_prob"],
            "prob_after": after["top_prob"],
            "changed": [a != b for a, b in zip(old, new, strict=True)],
            "favour": [
                "" if a == b else _favour(model, fact, b, targets) for fact, a, b in zip(chosen, old, new, strict=True)
            ],
            "log_prob_before": before["log_prob"],
            "log_prob_after": after["log_prob"],
            "fall": before["log_prob"] - after["log_prob"],
            "correct_before": before["correct"],
            "correct_after": after["correct"],
        }
    )


def _favour(model: Model, fact: Fact, token: int, targets: Iterable[str]) -> str:
    if token == model.answer_ids(fact.prompt, fact.answer or "")[0]:
        return OWN_ANSWER
    said = model.decode([token]).strip()  # a target that begins otherwise need not be tokenised
    likely = (target for target in targets if target.strip().startswith(said))
    return NEW_TARGET if any(token == model.answer_ids(fact.prompt, target)[0] for target in likely) else ANOTHER
