"""Judging edits: ask before, ask with the edit on, compare.

Nothing here knows how an edit was made: anything with `.on(model)`, a context manager inside which the model
is edited and after which it is itself again, can be judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import pandas as pd

from ...errors import UsageError
from ...facts.prompts import Fact, Facts, facts_of
from ...given import values_of
from ...models.model import Model
from ...public import public
from ...runs.progress import progress_bar
from .edit_metrics import AFTER, BEFORE, named, record_metrics, summarise
from .generation import Sampling
from .measures import MeasureOptions, Measures
from .questions import ask_facts, questions
from .text_metrics import TextMetrics, TextResult
from .under_edits import Applicable, Editor, Failed, ask_under_edits, asked_under

FACTS_AT_ONCE = 256
"""Facts whose single edits share their forwards: enough that rows of one length fill a batch."""


@dataclass(frozen=True)
class Evaluation:
    """What edits did.

    `records` has one row per record, stage ("before", "after") and metric, and says which edits failed; `answers` one
    row per question and stage, with the log-probabilities everything is computed from; `texts` one row per generated
    text and stage; `notes` says what was asked for and is absent.
    """

    records: pd.DataFrame
    answers: pd.DataFrame
    texts: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        metrics = ", ".join(dict.fromkeys(self.records["metric"]))
        failed = f", {len(self.failures)} of them not edited" if self.failures else ""
        return f"Evaluation({self.records['record'].nunique()} records{failed}: {metrics}; see .summary())"

    @property
    def failures(self) -> dict[str, str]:
        """Records whose edit could not be made, and why; they are counted with the unedited model's answers."""
        failed = self.records[self.records["failed"] != ""].drop_duplicates("record")
        return dict(zip(failed["record"], failed["failed"], strict=True))

    def summary(
        self, level: float = 0.95, *, resamples: int = 2000, seed: int = 0, cluster: str = "record"
    ) -> pd.DataFrame:
        """Every metric, before and after, with its interval over records (see `summarise`)."""
        return summarise(self.records, level=level, resamples=resamples, seed=seed, cluster=cluster)


@public
def evaluate_edit(
    model: Model, edit: Applicable, fact: Fact, *, before: pd.DataFrame | None = None, batch_size: int = 64
) -> dict[str, Any]:
    """Judge one edit on one fact.

    Args:
        model: the unedited model.
        edit: anything with `.on(model)`.
        fact: with answer and target_new.
        before: what `ask_facts(model, [fact])` gave, when it is already known.
        batch_size: rows per forward.

    Returns:
        {"record", "relation", "before": {metric: value}, "after": {metric: value}}; metrics without questions
        are absent.  See `metric_table` for the definitions.
    """
    if not isinstance(fact, Fact):
        raise UsageError(f"{fact!r:.80} is no fact; give Fact(prompt, target_new)")
    unedited = ask_facts(model, [fact], batch_size=batch_size) if before is None else before
    with asked_under(edit, model) as asked:
        edited = ask_facts(asked, [fact], batch_size=batch_size)
    long = record_metrics(unedited, edited, [fact])
    stages = {
        str(stage): {str(metric): float(value) for metric, value in zip(part["metric"], part["value"], strict=True)}
        for stage, part in long.groupby("stage")
    }
    return {"record": fact.id, "relation": fact.relation, **stages}


@public
def evaluate_edits(
    model: Model,
    edits: Editor,
    facts: Facts,
    *,
    progress: bool = True,
    **measures: Unpack[MeasureOptions],
) -> Evaluation:
    """Judge edits on their facts.

    Args:
        model: the unedited model.
        edits: one edit per fact, each judged alone (`Failed` where there is none); or one edit (of many facts, say),
            judged on all of them.
        facts: each with target_new and, for metrics that weigh it against the true object, answer.
        progress: show a progress bar.
        measures: any of `Measures`: metrics, portability, references, held_texts, sampling, batch_size.

    Raises:
        UsageError: another number of edits than of facts, facts that lack what the metrics need, or perplexity without
            texts.
    """
    return evaluate_editors(model, {"": edits}, facts, progress=progress, **measures)[""]


@public
def evaluate_editors(
    model: Model,
    edits: Mapping[str, Editor],
    facts: Facts,
    *,
    progress: bool = True,
    **measures: Unpack[MeasureOptions],
) -> dict[str, Evaluation]:
    """Judge the edits of several editors on the same facts: what no edit changes is computed once for all of them.

    Args:
        model: the unedited model.
        edits: editor -> one edit per fact, each judged alone (`Failed` where there is none), or one edit of all facts.
        facts, progress, measures: as of `evaluate_edits`.

    Returns:
        editor -> what its edits did; give two of them to `compare`.

    Raises:
        UsageError: no editor, an editor with another number of edits than of facts, or facts that lack what the metrics
            need.
    """
    if not edits:
        raise UsageError("there is no editor to judge; give at least one list of edits")
    [by], facts = values_of(measures, [Measures], "an evaluation"), facts_of(facts)
    for name, made in edits.items():
        if not isinstance(made, Applicable) and len(made) != len(facts):
            whose = f" of {name!r}" if name else ""
            raise UsageError(f"{len(made)} edits{whose} for {len(facts)} facts; give one edit per fact, or one for all")
    asked = questions(facts, by.names, by.portability)
    text_metrics = TextMetrics(by.names, by.references, by.texts, by.sampling or Sampling())
    answers: list[list[pd.DataFrame]] = []
    written = {name: TextResult() for name in edits}
    with progress_bar("judging facts", len(facts), shown=progress) as advance:
        for start in range(0, len(facts), FACTS_AT_ONCE):
            some = facts[start : start + FACTS_AT_ONCE]
            theirs = [question for question in asked if start <= question.fact < start + len(some)]
            part = [
                made if isinstance(made, Applicable) else made[start : start + len(some)] for made in edits.values()
            ]
            answers.append(ask_under_edits(model, part, theirs, first=start, batch_size=by.batch_size))
            for name, found in zip(edits, text_metrics.measure(model, part, some, first=start), strict=True):
                written[name].add(found)
            advance(len(some))
    before, *afters = (pd.concat(list(stage), ignore_index=True) for stage in zip(*answers, strict=True))
    return {
        name: _evaluation(before, after, facts, by.names, _failures(made, facts), written[name])
        for (name, made), after in zip(edits.items(), afters, strict=True)
    }


def _evaluation(
    before: pd.DataFrame,
    after: pd.DataFrame,
    facts: Sequence[Fact],
    metrics: Sequence[str],
    failures: dict[str, str],
    written: TextResult,
) -> Evaluation:
    answers = pd.concat([before.assign(stage=BEFORE), after.assign(stage=AFTER)], ignore_index=True)
    answers.insert(0, "record", [facts[i].id for i in answers["fact"]])
    records = record_metrics(before, after, facts, metrics, failures)
    if written.values:
        records = pd.concat([records, named(written.long(), facts, failures)], ignore_index=True)
    texts = [(facts[i].id, *rest) for i, *rest in written.texts]
    return Evaluation(
        records,
        answers.drop(columns="fact"),
        pd.DataFrame(texts, columns=["record", "stage", "prompt", "text"]),
        (*written.notes(len(facts)), *_merging(before)),
    )


def _merging(answers: pd.DataFrame) -> tuple[str, ...]:
    """A note where the tokenizer does not split questions and answers at the border between them."""
    merging = int(sum((answers[f"splits_{which}"] == 0).sum() for which in ("true", "new")))
    asked = int(sum(answers[f"splits_{which}"].notna().sum() for which in ("true", "new")))
    if not merging:
        return ()
    return (
        f"{merging} of {asked} answers merge with the end of their questions: given both as one text, the tokenizer "
        "does not split them there, so their probabilities say less (splits_true and splits_new in the answers)",
    )


def _failures(made: Editor, facts: Sequence[Fact]) -> dict[str, str]:
    if isinstance(made, Applicable):
        return {}
    return {fact.id: edit.reason for fact, edit in zip(facts, made, strict=True) if isinstance(edit, Failed)}
