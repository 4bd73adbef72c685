"""One trial of an editor: edits of some facts made in one way, judged, with what they cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ...editing import Edit, Provenance
from ...editing.sequences.sequence import EditSequence
from ...editing.sequences.singles import edit_each
from ...errors import MechinterpError, UsageError
from ...facts.prompts import Fact
from ...models.model import Model
from ...runs.peak_memory import peak_memory
from ..evaluation.evaluation import evaluate_edits
from ..evaluation.measures import Measures
from ..evaluation.retention import Retention, retention
from ..evaluation.under_edits import Editor, Failed
from .contest import BATCH, SINGLE, Contest
from .plans import Plan

LOOKS = 12
"""Steps of a sequence that retention looks at."""


@dataclass(frozen=True)
class Trial:
    """What came of it.

    Args:
        records: per-record metrics, as in `Evaluation`.
        cost: facts, failed, seconds (to make the edits, in all), peak_memory_mb, memory_is.
        notes: of the evaluation.
        retention: of a sequence.
    """

    records: pd.DataFrame
    cost: dict[str, Any]
    notes: tuple[str, ...] = ()
    retention: Retention | None = field(default=None)


def try_editor(model: Model, plan: Plan, contest: Contest, by: Measures, retained: tuple[str, ...] = ()) -> Trial:
    """Make the edits of some facts, and judge them.

    Args:
        model: the unedited model.
        plan: whose edits, of which facts, made in which way.
        contest: how they are made.
        by: how they are judged.
        retained: metrics that a sequence is looked at by on its way; none: it is judged after its last edit only.

    Raises:
        UsageError: bad input, which would fail for every fact.
    """
    contender, facts, per_step = plan.contender, plan.facts, contest.per_step
    shared: dict[str, Any] = {
        "moments": contender.moments, "contexts": contender.contexts, "hparams": contender.hparams,
        "seed": contest.seed, "allow_disabling": contest.allow_disabling,
    }  # fmt: skip
    conflicts = contest.allow_conflicts
    made: Editor
    sequence, states, failures = None, list[int](), dict[str, str]()
    with peak_memory(model.device) as peak:
        started = time.perf_counter()
        if plan.mode == SINGLE:
            made = edit_each(model, contender.editor, facts, contender.layers, progress=False, **shared)
        elif plan.mode == BATCH:
            try:
                made = contender.editor(model, facts, contender.layers, allow_conflicts=conflicts, **shared)
            except UsageError:
                raise
            except MechinterpError as error:
                made = [Failed(str(error))] * len(facts)
        else:
            sequence = EditSequence(model, contender.editor, contender.layers, allow_conflicts=conflicts, **shared)
            states, failures = _steps(sequence, facts, per_step)
            made = _whole(sequence.edit) if states[-1] else [Failed(next(iter(failures.values())))] * len(facts)
        seconds = time.perf_counter() - started
    judged = evaluate_edits(model, made, facts, progress=False, **by.options())
    records = judged.records
    if failures:
        records = records.assign(failed=[failures.get(record, "") for record in records["record"]])
    looked = None
    if sequence is not None and retained:
        looked = _retention(model, sequence, states, plan, contest, by, retained)
    cost = {
        "facts": len(facts), "failed": len(failures) if sequence else len(judged.failures), "seconds": seconds,
        "peak_memory_mb": peak.megabytes, "memory_is": peak.kind,
    }  # fmt: skip
    return Trial(records, cost, judged.notes, looked)


def _steps(sequence: EditSequence, facts: Sequence[Fact], per_step: int) -> tuple[list[int], dict[str, str]]:
    """After each step, how many edits there are; and the facts of the steps that failed, with the reason."""
    states, failures = [], dict[str, str]()
    for start in range(0, len(facts), per_step):
        some = facts[start : start + per_step]
        try:
            sequence.add(some)
        except UsageError:
            raise
        except MechinterpError as error:
            failures |= {fact.id: str(error) for fact in some}
        states.append(len(sequence))
    return states, failures


def _retention(
    model: Model,
    sequence: EditSequence,
    states: list[int],
    plan: Plan,
    contest: Contest,
    by: Measures,
    retained: tuple[str, ...],
) -> Retention:
    size = contest.per_step
    steps = [plan.facts[start : start + size] for start in range(0, len(plan.facts), size)]
    edits = _States(sequence, states, looks(len(steps)))
    return retention(
        model, edits, steps, metrics=retained, held_texts=by.texts, batch_size=by.batch_size, progress=False
    )


class _States(Mapping[int, Edit | None]):
    """A sequence as it was after some of its steps, each made when it is asked for: dense ones do not all fit."""

    def __init__(self, sequence: EditSequence, made: Sequence[int], steps: Sequence[int]) -> None:
        self._sequence, self._made, self._steps = sequence, made, steps

    def __getitem__(self, step: int) -> Edit | None:
        if step not in self._steps:
            raise KeyError(step)
        count = self._made[step - 1]
        return _whole(self._sequence.after(count)) if count else None

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def looks(steps: int) -> list[int]:
    """The steps of a sequence that are looked at: the first, the last, and between them ever further apart."""
    spaced = {round(steps ** (i / (LOOKS - 1))) for i in range(LOOKS)}
    return sorted(spaced | {1, steps})


def _whole(edit: Edit) -> Edit:
    """The same change in one part of no more rank than the matrix, so that a forward adds it in one go.

    Changes of other kinds than weights stay the parts that they are.
    """
    if not edit.is_weights:
        return edit
    first = edit.parts[0].provenance
    requests = tuple(request for part in edit.parts for request in part.provenance.requests)
    origin = Provenance(
        first.method, first.model, first.model_name, first.model_dtype, requests, on_top_of=first.on_top_of,
        versions=first.versions,
    )  # fmt: skip
    return Edit.of(edit.weights.compact(), origin)
