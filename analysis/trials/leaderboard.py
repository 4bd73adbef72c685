"""Editors side by side: the same facts, the same questions, every number with its interval, and what the edits cost."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...editing.moments.moments import SecondMoment
from ...editing.value.hparams import Hparams
from ...errors import MechinterpError, UsageError
from ...facts.prompts import Fact
from ...models.model import Model
from ...runs.progress import progress_bar
from ..evaluation.generation import Sampling
from ..evaluation.metric_table import COUNTERFACT, chosen
from ..evaluation.portability import Portability
from ..evaluation.references import References
from ..evaluation.retention import RETAINED
from ..intervals import MIN_UNITS, why_no_interval
from .contenders import contender
from .making import SINGLE, Judging, Trial, try_editor
from .plans import Plan, check_plan, plan_trials
from .result import CELL, Leaderboard
from .store import TrialStore


def leaderboard(
    model: Model,
    facts: Sequence[Fact],
    editors: Sequence[str],
    *,
    edits: str | Sequence[str] = SINGLE,
    sizes: Sequence[int] = (1, 10, 100),
    groups: int | None = None,
    per_step: int = 1,
    moments: Mapping[int, SecondMoment] | None = None,
    layers: Mapping[str, Sequence[int]] | None = None,
    hparams: Mapping[str, Hparams] | None = None,
    metrics: Sequence[str] = COUNTERFACT,
    portability: Mapping[str, Portability] | None = None,
    references: References | None = None,
    held_texts: Sequence[str] = (),
    sampling: Sampling | None = None,
    retention: bool = True,
    allow_disabling: bool = True,
    allow_conflicts: bool = False,
    seed: int = 0,
    batch_size: int = 128,
    out: str | Path | None = None,
    progress: bool = True,
) -> Leaderboard:
    """Edit facts with several editors, judge all of them in the same way, and count the cost.

    Args:
        model: the unedited model; it is so again afterwards.
        facts: each with answer and target_new.
        editors: names from `EDITORS`.
        edits: "single" (each fact by an edit of its own on the unedited model), "batch" (one edit of `size` facts),
            "sequential" (`size` facts one after the other, judged after the last), or several of them.
        sizes: of batches and sequences.  The facts are shared out to as many groups of a size as they fill; each group
            starts from the unedited model.
        groups: at most so many groups of each size above 1.
        per_step: facts edited together in each step of a sequence.
        moments: second moments by layer, for the editors that need them.
        layers: editor -> layers, where they are not to be the published ones.
        hparams: editor -> hyper-parameters, where they are not to be the default ones.
        metrics: names from `METRICS`.
        portability, references, held_texts, sampling: as of `evaluate_edits`.
        retention: look at each editor's first sequence of the largest size on its way, too.
        allow_disabling: judge edits that endanger the model, so that their damage is in the figures; else they count as
            failed.  A failed edit is counted as no edit.
        allow_conflicts: accept batches whose requests contradict each other.
        seed: of contexts and editors.
        batch_size: rows per forward when judging.
        out: a folder for what is finished; an interrupted run given the same one goes on, and more editors or sizes can
            be added later.
        progress: show a bar over facts.

    Raises:
        UsageError: bad input: no editors or unknown ones, sizes larger than there are facts, a second moment that is
            missing, a folder of another experiment.
        MechinterpError: interrupted; what is finished is kept in `out`.
    """
    modes = (edits,) if isinstance(edits, str) else tuple(dict.fromkeys(edits))
    if isinstance(editors, str) or not editors:
        raise UsageError(f"editors={editors!r} is no list of editors; give at least one name")
    check_plan(facts, modes, sizes, groups, per_step)
    entered = [
        contender(model, name, moments=moments, layers=layers, hparams=hparams, seed=seed)
        for name in dict.fromkeys(editors)
    ]
    options: dict[str, Any] = {
        "metrics": tuple(metrics), "portability": portability, "references": references, "sampling": sampling,
        "held_texts": tuple(held_texts), "batch_size": batch_size,
    }  # fmt: skip
    retained = tuple(metric for metric in RETAINED if metric in {found.name for found in chosen(metrics)})
    header = {
        "model": model.fingerprint(), "facts": _digest(facts), "metrics": sorted(metrics), "seed": seed,
        "texts": _digest([list(held_texts), sampling, portability, references and references.fingerprint()]),
        "allow_disabling": allow_disabling, "allow_conflicts": allow_conflicts,
    }  # fmt: skip
    store = TrialStore(out, header)
    plans, notes = plan_trials(
        entered, facts, modes, sizes, groups=groups, per_step=per_step, retained=retention and bool(retained)
    )
    done = 0
    with progress_bar("editing facts", sum(len(plan.facts) for plan in plans), shown=progress) as advance:
        try:
            for plan in plans:
                if plan.key not in store:
                    judging = Judging(options, retained if plan.retained else ())
                    trial = try_editor(
                        model, plan.contender, plan.mode, plan.facts, judging, per_step=per_step, seed=seed,
                        allow_disabling=allow_disabling, allow_conflicts=allow_conflicts,
                    )  # fmt: skip
                    store.add(plan.key, trial)
                done += 1
                advance(len(plan.facts))
        except KeyboardInterrupt:
            kept = f"{done} of {len(plans)} trials are kept in {out}; start the same run again to go on"
            raise MechinterpError(f"interrupted: {kept if out else 'nothing is kept without a folder'}") from None
    return _result([(plan, store[plan.key]) for plan in plans], notes)


def _result(trials: Sequence[tuple[Plan, Trial]], notes: Sequence[str]) -> Leaderboard:
    records, costs, looked = [], [], {}
    for plan, trial in trials:
        place = dict(zip(CELL, plan.cell, strict=True))
        number = {fact.id: plan.group + i * (plan.mode == SINGLE) for i, fact in enumerate(plan.facts)}
        group = [number[record] for record in trial.records["record"]]
        columns = [*CELL, "group", *trial.records.columns]
        records.append(trial.records.assign(**place, group=group)[columns])
        costs.append({**place, **trial.cost})
        if trial.retention is not None:
            looked[plan.contender.name] = trial.retention
    said = [f"{'/'.join(map(str, plan.cell))}: {note}" for plan, trial in trials for note in trial.notes]
    rows = []
    for cell, part in pd.DataFrame(costs).groupby(CELL, sort=False):
        facts = int(part["facts"].sum())
        rows.append(
            (*cell, facts, int(part["failed"].sum()), float(part["seconds"].sum()) / facts,
             float(part["peak_memory_mb"].max()), str(part["memory_is"].iloc[0]))
        )  # fmt: skip
    columns = [*CELL, "facts", "failed", "seconds_per_edit", "peak_memory_mb", "memory_is"]
    return Leaderboard(
        pd.concat(records, ignore_index=True), pd.DataFrame(rows, columns=columns), looked,
        tuple(dict.fromkeys([*notes, *_few([plan for plan, _ in trials]), *said])),
    )  # fmt: skip


def _few(plans: Sequence[Plan]) -> list[str]:
    """Of rows with few facts, that they have no intervals; of those with few edits, what their intervals do not say."""
    facts = {(plan.edits, plan.size): set[str]() for plan in plans}
    groups: Counter[tuple[str, str, int]] = Counter()
    for plan in plans:
        facts[plan.edits, plan.size] |= {fact.id for fact in plan.facts}
        groups[plan.contender.name, plan.edits, plan.size] += plan.mode != SINGLE
    few_edits = {(edits, size): count for (_, edits, size), count in groups.items() if 0 < count < MIN_UNITS}
    found = []
    for (edits, size), theirs in facts.items():
        count = few_edits.get((edits, size), 0)
        if why := why_no_interval(len(theirs), "fact"):
            found.append(f"{edits} edits of {size}: {why}")
        elif count:
            found.append(
                f"{edits} edits of {size}: the intervals are over the facts of "
                f"{'one edit' if count == 1 else f'{count} edits'} and say little of other edits"
            )
    return found


def _digest(thing: object) -> str:
    return hashlib.sha256(repr(thing).encode()).hexdigest()[:16]
