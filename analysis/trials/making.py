"""One trial of an editor: edits of some facts made in one way, judged, with what they cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from ..evaluation.retention import Retention, retention
from ..evaluation.under_edits import Editor, Failed
from .contenders import Contender

SINGLE, BATCH, SEQUENTIAL = "single", "batch", "sequential"
MODES = (SINGLE, BATCH, SEQUENTIAL)
"""Each fact by an edit of its own on the unedited model; all by one edit; one after another, judged after the last."""

LOOKS = 12
"""Steps of a sequence that retention looks at."""


@dataclass(frozen=True)
class Judging:
    """How edits are judged: what `evaluate_edits` takes, and whether a sequence is looked at on its way.

    Args:
        options: keyword arguments of `evaluate_edits`.
        retained: metrics of retention; empty: a sequence is judged after its last edit only.
    """

    options: Mapping[str, Any]
    retained: tuple[str, ...] = ()


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


def try_editor(
    model: Model,
    contender: Contender,
    mode: str,
    facts: Sequence[Fact],
    judging: Judging,
    *,
    per_step: int = 1,
    seed: int = 0,
    allow_disabling: bool = True,
    allow_conflicts: bool = False,
) -> Trial:
    """Make the edits of some facts, and judge them.

    Args:
        model: the unedited model.
        contender: the editor.
        mode: "single", "batch" (all facts by one edit) or "sequential".
        facts: each with target_new.
        judging: how.
        per_step: facts edited together in each step of a sequence.
        seed: of the editor.
        allow_disabling: judge edits that endanger the model too; else they count as failed.
        allow_conflicts: accept requests that contradict each other.

    Raises:
        UsageError: bad input, which would fail for every fact.
    """
    shared: dict[str, Any] = {
        "moments": contender.moments, "contexts": contender.contexts, "hparams": contender.hparams, "seed": seed,
        "allow_disabling": allow_disabling,
    }  # fmt: skip
    made: Editor
    sequence, states, failures = None, list[int](), dict[str, str]()
    with peak_memory(model.device) as peak:
        started = time.perf_counter()
        if mode == SINGLE:
            made = edit_each(model, contender.editor, facts, contender.layers, progress=False, **shared)
        elif mode == BATCH:
            try:
                made = contender.editor(model, facts, contender.layers, allow_conflicts=allow_conflicts, **shared)
            except UsageError:
                raise
            except MechinterpError as error:
                made = [Failed(str(error))] * len(facts)
        else:
            sequence = EditSequence(
                model, contender.editor, contender.layers, allow_conflicts=allow_conflicts, **shared
            )
            states, failures = _steps(sequence, facts, per_step)
            made = _whole(sequence.edit) if states[-1] else [Failed(next(iter(failures.values())))] * len(facts)
        seconds = time.perf_counter() - started
    judged = evaluate_edits(model, made, facts, progress=False, **judging.options)
    records = judged.records
    if failures:
        records = records.assign(failed=[failures.get(record, "") for record in records["record"]])
    looked = None
    if sequence is not None and judging.retained:
        looked = _retention(model, sequence, states, facts, per_step, judging)
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
    facts: Sequence[Fact],
    per_step: int,
    judging: Judging,
) -> Retention:
    steps = [facts[start : start + per_step] for start in range(0, len(facts), per_step)]
    edits = _States(sequence, states, looks(len(steps)))
    options = {name: judging.options[name] for name in ("held_texts", "batch_size") if name in judging.options}
    return retention(model, edits, steps, metrics=judging.retained, progress=False, **options)


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
    """The same change in one part of no more rank than the matrix, so that a forward adds it in one go."""
    first = edit.parts[0].provenance
    requests = tuple(request for part in edit.parts for request in part.provenance.requests)
    origin = Provenance(first.method, first.model, first.model_name, requests, on_top_of=first.on_top_of)
    return Edit.of(edit.weights.compact(), replace(origin, versions=first.versions))
