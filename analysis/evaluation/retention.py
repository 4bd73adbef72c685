"""What is left of an edit after more edits: every fact of a sequence asked again after later steps.

Judging each edit of a sequence right after it was made says nothing of retention; judging all of them after the last
says nothing of when they were lost.  Here fact i is asked after step t, for every t that is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ...editing import Edit
from ...errors import UsageError
from ...facts.prompts import Fact, Facts, facts_of
from ...given import Names, names_of, texts_of, whole
from ...models.model import Model
from ...public import public
from ...runs.progress import progress_bar
from ..intervals import bootstrap_mean, bootstrap_share
from .answer_rows import AnswerRows
from .edit_metrics import AFTER, BEFORE, record_metrics
from .metric_table import METRICS, SHARE
from .questions import ask_facts
from .scoring import score_rows
from .text_metrics import perplexity_of
from .under_edits import asked_under

RETAINED = ("ES", "ES_acc", "PS", "NS")
"""Efficacy (the new object is preferred; it is the answer), other wordings, other subjects."""

ENDS = (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Ends of the groups of ages in a curve, in later edits."""


@dataclass(frozen=True)
class Retention:
    """A sequence of edits, looked at after some of its steps.

    Args:
        records: one row per step looked at, fact edited by then, and metric: step, made (the step the fact was edited
            in), later (facts edited after it), record, relation, metric, value, questions.
        before: the same of the unedited model, without step and later.
        perplexity: step, edits (facts edited by then), perplexity of the held texts; step 0 is the unedited model.
    """

    records: pd.DataFrame
    before: pd.DataFrame
    perplexity: pd.DataFrame

    def __repr__(self) -> str:
        facts, steps = self.before["record"].nunique(), self.records["step"].nunique()
        return f"Retention({facts} facts, looked at after {steps} steps; see .curve() and .matrix())"

    def matrix(self, metric: str = "ES_acc") -> pd.DataFrame:
        """The average over the facts of each step (rows: made) after each step looked at (columns); NaN before it.

        Raises:
            UsageError: the metric was not measured.
        """
        return self._of(metric).pivot_table(index="made", columns="step", values="value", aggfunc="mean")

    def curve(self, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
        """Every metric by how many facts were edited later, with intervals over facts.

        Ages are taken together in groups (0, 1-2, 3-5, 6-10, 11-20, ... later edits); a fact that was looked at several
        times in one group is averaged first.

        Returns:
            One row per metric and group: metric, first, last (of the group, in later edits), later (their mean),
            estimate, low, high, n_records.
        """
        group = np.searchsorted(ENDS, self.records["later"].to_numpy())
        rows = []
        for (metric, _), part in self.records.groupby(["metric", group], sort=True):
            of_fact = part.groupby("record")["value"].mean().to_numpy(float)
            method = bootstrap_share if METRICS[str(metric)].unit == SHARE else bootstrap_mean
            found = method(of_fact, level, resamples, seed)
            later = part["later"]
            rows.append(
                (metric, int(later.min()), int(later.max()), float(later.mean()), float(found.estimate),
                 float(found.low), float(found.high), len(of_fact))
            )  # fmt: skip
        columns = ["metric", "first", "last", "later", "estimate", "low", "high", "n_records"]
        return pd.DataFrame(rows, columns=columns)

    def _of(self, metric: str) -> pd.DataFrame:
        found = self.records[self.records["metric"] == metric]
        if found.empty:
            there = ", ".join(dict.fromkeys(self.records["metric"]))
            raise UsageError(f"{metric!r} was not measured on this sequence; it has {there}")
        return found


@public
def retention(
    model: Model,
    edits: Mapping[int, Edit | None],
    facts: Sequence[Facts],
    *,
    metrics: Names = RETAINED,
    questions: int | None = 2,
    held_texts: Iterable[str] = (),
    batch_size: int = 128,
    progress: bool = True,
) -> Retention:
    """Ask the facts of a sequence of edits again and again.

    Args:
        model: the unedited model.
        edits: step (from 1) -> all edits made up to it, joined: `{t: sequence.after(t) for t in (1, 2, 5, 10)}`; None
            where none could be made so far.  Steps that are left out are not looked at.
        facts: what each step edited, one fact or several; each with answer and target_new.
        metrics: names from `METRICS` that are about questions.
        questions: how many paraphrases and neighbours of each fact are asked; None: all.
        held_texts: what perplexity is measured on, after each step.
        batch_size: rows per forward.
        progress: show a bar over the steps.

    Raises:
        UsageError: no step, a step without facts, or facts that lack what the metrics need.
    """
    steps = sorted(edits)
    of_steps = [facts_of(some) for some in facts]
    metrics, held = names_of(metrics, "metrics"), tuple(texts_of(held_texts, "held_texts"))
    questions = None if questions is None else whole(questions, "questions", least=0)
    wrong = [step for step in steps if not 1 <= step <= len(of_steps)]
    if not steps or wrong:
        which = f"there is no step {wrong[0]}" if wrong else "there is no step to look at"
        raise UsageError(f"{which}; the facts are those of steps 1 to {len(of_steps)}")
    made = [step for step, some in enumerate(of_steps, start=1) for _ in some]
    everything = [_fewer(fact, questions) for some in of_steps for fact in some]
    texts = AnswerRows.of_texts(model, held) if held else None
    unedited = ask_facts(model, everything, metrics, batch_size=batch_size)
    start = record_metrics(unedited, unedited, everything, metrics)
    edited_by = np.cumsum([0, *map(len, of_steps)]).tolist()  # step -> facts edited in it and before
    step_of = dict(zip((fact.id for fact in everything), made, strict=True))
    parts = []
    perplexities = [] if texts is None else [(0, 0, perplexity_of(score_rows(model, texts)))]
    with progress_bar("looking at steps", len(steps), shown=progress) as advance:
        for step in steps:
            count = edited_by[step]
            known, edit = everything[:count], edits[step]
            with asked_under(edit, model) if edit is not None else nullcontext(model) as asked:
                answers = ask_facts(asked, known, metrics, batch_size=batch_size)
                if texts is not None:
                    perplexities.append((step, count, perplexity_of(score_rows(asked, texts))))
            values = record_metrics(unedited.iloc[: len(answers)], answers, known, metrics)
            values = values[values["stage"] == AFTER].assign(step=step)
            parts.append(values.assign(later=[count - edited_by[step_of[record]] for record in values["record"]]))
            advance(1)
    records = pd.concat(parts, ignore_index=True)
    records["made"] = [step_of[record] for record in records["record"]]
    before = start[start["stage"] == BEFORE].reset_index(drop=True)
    before["made"] = [step_of[record] for record in before["record"]]
    shared = ["made", "record", "relation", "metric", "value", "questions"]
    return Retention(
        records[["step", "later", *shared]],
        before[shared],
        pd.DataFrame(perplexities, columns=["step", "edits", "perplexity"]),
    )


def _fewer(fact: Fact, questions: int | None) -> Fact:
    """The fact with at most so many paraphrases and neighbours."""
    if questions is None:
        return fact
    return replace(fact, paraphrases=fact.paraphrases[:questions], neighbourhood=fact.neighbourhood[:questions])
