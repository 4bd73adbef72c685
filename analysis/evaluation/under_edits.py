"""The same questions under the edits of one or several editors, as many in one forward as rows can carry.

Edits of the project's own kind are carried by the rows of a batch (`editing.row_edits`).  Anything else with
`.on(model)`, and edits of many facts at once, whose factors are too large for rows, are applied one after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeGuard, runtime_checkable

import pandas as pd

from ...editing.edits.edit import Edit
from ...editing.edits.row_edits import RowEdits
from ...editing.sequences.singles import NotMade
from ...models.model import Model
from .answer_rows import AnswerRows
from .questions import FactQuestion, answer_frame, pairs_of
from .row_scoring import score_under_edits
from .scoring import score_rows

_MAX_NUMBERS = 1 << 17
"""Rows carry edits whose factors of a layer are at most so many numbers: rank 16 of GPT-2 XL, any of a small model.
Larger ones cost more to lay out per row than it costs to apply them one after the other."""


@runtime_checkable
class Applicable(Protocol):
    """An edit, as far as judging it goes."""

    def on(self, model: Model) -> AbstractContextManager[Any]: ...


Failed = NotMade
"""Stands where an edit could not be made (or was refused): judged as what it leaves behind, the unedited model."""

Editor = Applicable | Sequence[Applicable | Failed]
"""What an editor made: one edit per fact, or one edit of all of them."""


def carried_by_rows(edit: object) -> TypeGuard[Edit]:
    """Whether rows can carry it."""
    return (
        isinstance(edit, Edit)
        and edit.is_weights
        and all(factors.u.numel() + factors.v.numel() <= _MAX_NUMBERS for factors in edit.weights.factors.values())
    )


@contextmanager
def asked_under(edit: Applicable, model: Model) -> Iterator[Model]:
    """The model to be asked while an edit is on: what its `on` yields, or the model where that yields nothing.

    Other threads that run the model wait meanwhile: they would be answered by the edited one.
    """
    with model.alone(), edit.on(model) as yielded:
        yield yielded if isinstance(yielded, Model) else model


def ask_under_edits(
    model: Model,
    editors: Sequence[Editor],
    asked: Sequence[FactQuestion],
    *,
    first: int = 0,
    batch_size: int = 128,
) -> list[pd.DataFrame]:
    """What the model answers to the questions on some facts, unedited and with the edits made for each fact.

    Args:
        model: the unedited model.
        editors: of each editor, one edit per fact, or one edit of all facts.
        asked: the questions, by fact.
        first: the number of the first fact.
        batch_size: rows per forward.

    Returns:
        The answers of the unedited model, then those under each editor's edits; as `ask_facts` gives them.
    """
    rows = AnswerRows.of(model, pairs_of(asked))
    answers: dict[int, list[int]] = defaultdict(list)  # fact -> its answers
    for answer, question in enumerate(_question_of_each_answer(asked)):
        answers[question.fact - first].append(answer)
    single = [(e, i, edit) for e, made in enumerate(editors) if not isinstance(made, Applicable)
              for i, edit in enumerate(made)]  # fmt: skip
    carried = [(e, i, edit) for e, i, edit in single if carried_by_rows(edit)]
    parts: list[list[pd.DataFrame]] = [[] for _ in editors]
    if carried:
        entries = [(answer, number) for number, (_, i, _) in enumerate(carried) for answer in answers[i]]
        edits = RowEdits([edit for _, _, edit in carried])
        unedited, edited = score_under_edits(model, rows, edits, entries, batch_size=batch_size)
        start = 0
        for e, i, _ in carried:
            parts[e].append(edited.iloc[start : start + len(answers[i])].set_axis(answers[i]))
            start += len(answers[i])
    else:
        unedited = score_rows(model, rows, batch_size=batch_size)
    for e, i, edit in single:
        if isinstance(edit, Failed):
            parts[e].append(unedited.loc[answers[i]])
        elif not carried_by_rows(edit):
            with asked_under(edit, model) as asked_model:
                scores = score_rows(asked_model, rows.of_model(asked_model, answers[i]), batch_size=batch_size)
            parts[e].append(scores.set_axis(answers[i]))
    for e, made in enumerate(editors):
        if isinstance(made, Applicable):
            with asked_under(made, model) as asked_model:
                parts[e].append(score_rows(asked_model, rows.of_model(asked_model), batch_size=batch_size))
    return [answer_frame(asked, scores) for scores in (unedited, *(pd.concat(part).sort_index() for part in parts))]


def _question_of_each_answer(asked: Sequence[FactQuestion]) -> list[FactQuestion]:
    """In the order of `pairs_of`."""
    return [q for q in asked if q.true is not None] + [q for q in asked if q.new is not None]
