"""Every fact edited at every layer, one edit at a time: where does an edit work, and what does it cost there?

Beside a trace this answers whether the layers that tracing points at are the layers where editing works; Hase
et al. 2023 found that they need not be.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import MechinterpError, UsageError
from ...facts.prompts import Fact, Facts, facts_of
from ...given import Wholes
from ...models.model import Model
from ...public import public
from ...runs.identity import Identity
from ...runs.journal import Journal
from ...runs.progress import progress_bar
from ..evaluation.edit_metrics import record_metrics, summarise
from ..evaluation.questions import ask_facts
from ..evaluation.under_edits import Applicable, asked_under

MakeEdit = Callable[[Fact, int], Applicable]
"""Makes the edit of a fact at a layer."""


@public
def edit_by_layer(
    model: Model,
    facts: Facts,
    layers: Wholes,
    make_edit: MakeEdit,
    *,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """Edit each fact at each layer singly, judge the edit, undo it.

    Args:
        model: the unedited model.
        facts: each with answer and target_new.
        layers: which layers; negative ones count from the end.
        make_edit: makes the edit of a fact at a layer.
        settings: what `make_edit` was set to (JSON values); a journal with other settings is not continued.
        out: a journal (JSON lines); an interrupted run given the same file goes on where it stopped.
        batch_size: rows per forward when judging.
        progress: show a bar.

    Returns:
        One row per layer, record, stage and metric: layer, record, relation, stage, metric, value, questions,
        seconds (to make the edit), failed (why no edit could be made, else ""; it is then counted with the
        unedited model's answers).  Give it to `layer_summary` or `plot_edit_by_layer`.

    Raises:
        UsageError: no layers, a layer the model does not have, or a journal of another experiment.
    """
    facts, at = facts_of(facts), model.layout.check_layers(layers)
    if not at:
        raise UsageError("there are no layers to edit at; give at least one")
    fields = {"model": model.acting_fingerprint(), "settings": dict(settings or {}), "failed edits": "count as no edit"}
    journal = Journal(out, Identity.of("experiment", fields))
    asked_for = [(layer, _digest(fact)) for layer in at for fact in facts]
    with journal.opened(), progress_bar("editing facts", len(asked_for), shown=progress) as advance:
        done = {(record["layer"], record["fact"]) for record in journal.records}
        unedited = ask_facts(model, facts, batch_size=batch_size)
        for layer in at:
            for i, fact in enumerate(facts):
                if (layer, _digest(fact)) not in done:
                    before = unedited[unedited["fact"] == i].reset_index(drop=True).assign(fact=0)
                    journal.add(_edit_once(model, fact, layer, make_edit, before, batch_size))
                advance(1)
    return _frame(journal.records, set(asked_for))


@public
def layer_summary(
    edits: pd.DataFrame, *, level: float = 0.95, resamples: int = 2000, seed: int = 0, cluster: str = "record"
) -> pd.DataFrame:
    """Every metric by layer with its interval (see `summarise`); columns as there, and layer."""
    summary = summarise(edits, ["layer"], level=level, resamples=resamples, seed=seed, cluster=cluster)
    return summary.sort_values(["layer", "stage", "metric"], ignore_index=True)


def _edit_once(
    model: Model, fact: Fact, layer: int, make_edit: MakeEdit, before: pd.DataFrame, batch_size: int
) -> dict[str, Any]:
    started, failed, after = time.perf_counter(), "", before
    try:
        edit = make_edit(fact, layer)
        seconds = time.perf_counter() - started
        with asked_under(edit, model) as asked:
            after = ask_facts(asked, [fact], batch_size=batch_size)
    except UsageError:
        raise  # the input is wrong for every record; nothing is learnt by going on
    except MechinterpError as error:
        seconds, failed = time.perf_counter() - started, str(error)
    values = record_metrics(before, after, [fact])
    rows = values[["stage", "metric", "value", "questions"]].to_dict("records")
    return {
        "layer": layer, "fact": _digest(fact), "record": fact.id, "relation": fact.relation,
        "seconds": seconds, "failed": failed, "values": rows,
    }  # fmt: skip


def _frame(records: Sequence[Mapping[str, Any]], asked_for: set[tuple[int, str]]) -> pd.DataFrame:
    """The records asked for as a long table (a journal may hold more)."""
    rows = [
        {key: record[key] for key in ("layer", "record", "relation")}
        | value
        | {key: record[key] for key in ("seconds", "failed")}
        for record in records
        if (record["layer"], record["fact"]) in asked_for
        for value in record["values"]
    ]
    return pd.DataFrame(rows)


def _digest(fact: Fact) -> str:
    """Tells facts of one name apart, so that a journal is not continued with other questions."""
    return hashlib.sha256(repr(fact).encode()).hexdigest()[:16]
