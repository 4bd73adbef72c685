"""Judging edits: ask before, ask with the edit on, compare.

Nothing here knows how an edit was made: anything with `.on(model)`, a context manager inside which the model
is edited and after which it is itself again, can be judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from ..errors import UsageError
from ..models import Model
from ..progress import progress_bar
from ..prompts import Fact
from .edit_metrics import record_metrics, summarise
from .questions import ask


@runtime_checkable
class Applicable(Protocol):
    """An edit, as far as judging it goes."""

    def on(self, model: Model) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Evaluation:
    """What edits did.

    `records` has one row per record, stage ("before", "after") and metric; `answers` one row per question and
    stage, with the log-probabilities everything is computed from.
    """

    records: pd.DataFrame
    answers: pd.DataFrame

    def summary(
        self, level: float = 0.95, *, resamples: int = 2000, seed: int = 0, cluster: str = "record"
    ) -> pd.DataFrame:
        """Every metric, before and after, with its interval over records (see `summarise`)."""
        return summarise(self.records, level=level, resamples=resamples, seed=seed, cluster=cluster)


def evaluate_edit(
    model: Model, edit: Applicable, fact: Fact, *, before: pd.DataFrame | None = None, batch_size: int = 64
) -> dict[str, Any]:
    """Judge one edit on one fact.

    Args:
        model: the unedited model.
        edit: anything with `.on(model)`.
        fact: with answer and target_new.
        before: what `ask(model, [fact])` gave, when it is already known.
        batch_size: rows per forward.

    Returns:
        {"record", "relation", "before": {metric: value}, "after": {metric: value}}; metrics without questions
        are absent.  See `edit_metrics` for the definitions.
    """
    unedited = ask(model, [fact], batch_size=batch_size) if before is None else before
    with edit.on(model):
        edited = ask(model, [fact], batch_size=batch_size)
    long = record_metrics(unedited, edited, [fact])
    stages = {
        str(stage): {str(metric): float(value) for metric, value in zip(part["metric"], part["value"], strict=True)}
        for stage, part in long.groupby("stage")
    }
    return {"record": fact.id, "relation": fact.relation, **stages}


def evaluate_edits(
    model: Model,
    edits: Applicable | Sequence[Applicable],
    facts: Sequence[Fact],
    *,
    batch_size: int = 64,
    progress: bool = True,
) -> Evaluation:
    """Judge edits on their facts.

    Args:
        model: the unedited model.
        edits: one edit per fact, each judged alone; or one edit (of many facts, say), judged on all of them.
        facts: each with answer and target_new.
        batch_size: rows per forward.
        progress: show a progress bar.

    Raises:
        UsageError: another number of edits than of facts.
    """
    before = ask(model, facts, batch_size=batch_size)
    if isinstance(edits, Applicable):
        with edits.on(model):
            after = ask(model, facts, batch_size=batch_size)
    else:
        if len(edits) != len(facts):
            raise UsageError(f"{len(edits)} edits for {len(facts)} facts; give one edit per fact, or one for all")
        parts = []
        with progress_bar("judging edits", len(edits), shown=progress) as advance:
            for i, edit in enumerate(edits):
                with edit.on(model):
                    parts.append(ask(model, [facts[i]], batch_size=batch_size).assign(fact=i))
                advance(1)
        after = pd.concat(parts, ignore_index=True)
    answers = pd.concat([before.assign(stage="before"), after.assign(stage="after")], ignore_index=True)
    answers.insert(0, "record", [facts[i].id for i in answers["fact"]])
    return Evaluation(record_metrics(before, after, facts), answers.drop(columns="fact"))
