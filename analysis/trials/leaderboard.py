"""Editors side by side: the same facts, the same questions, every number with its interval, and what the edits cost."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Unpack

import pandas as pd

from ...errors import MechinterpError, NotSavedError, StorageError, UsageError
from ...facts.prompts import Facts, facts_of
from ...given import Names, names_of, values_of
from ...models.model import Model
from ...public import public
from ...runs.folder import OutFolder
from ...runs.identity import Identity
from ...runs.progress import progress_bar
from ...runs.ranks import Ranks, ranks
from ..evaluation.measures import Measures
from ..evaluation.metric_table import chosen
from ..evaluation.retention import RETAINED
from ..intervals import MIN_UNITS, why_no_interval
from .contenders import check_named, contender
from .contest import SINGLE, Contest, ContestOptions
from .making import Trial, try_editor
from .plans import Plan, check_plan, plan_trials
from .result import CELL, Leaderboard
from .store import TrialStore


@public
def leaderboard(
    model: Model,
    facts: Facts,
    editors: Names,
    *,
    out: str | Path | None = None,
    progress: bool = True,
    **options: Unpack[ContestOptions],
) -> Leaderboard:
    """Edit facts with several editors, judge all of them in the same way, and count the cost.

    Args:
        model: the unedited model; it is so again afterwards.
        facts: each with answer and target_new.
        editors: names from `EDITORS`.
        out: a folder for what is finished; an interrupted run given the same one goes on, and more editors or sizes can
            be added later.
        progress: show a bar over facts.
        options: which edits are made (`Contest`: edits, sizes, groups, per_step, retention, moments, layers, hparams,
            allow_disabling, allow_conflicts, seed), and by what they are judged (`Measures`: metrics, ...).

    Raises:
        UsageError: bad input: no editors or unknown ones, sizes larger than there are facts, a second moment that is
            missing, a folder of another experiment.
        MechinterpError: interrupted; what is finished is kept in `out`.
    """
    names = tuple(dict.fromkeys(names_of(editors, "editors")))
    if not names:
        raise UsageError("no editor is named; give at least one")
    facts, (contest, by) = facts_of(facts), values_of(options, (Contest, Measures), "a leaderboard")
    check_plan(facts, contest)
    check_named(contest, names)
    entered = [contender(model, name, contest) for name in names]
    retained = tuple(metric for metric in RETAINED if metric in {found.name for found in chosen(by.names)})
    identity = Identity.of("evaluation", {
        "model": model.acting_fingerprint(), "facts": _digest(facts), "metrics": sorted(by.names), "seed": contest.seed,
        "texts": _digest(
            [list(by.texts), by.sampling, by.portability, by.references and by.references.fingerprint()]
        ),
        "allow_disabling": contest.allow_disabling, "allow_conflicts": contest.allow_conflicts,
    })  # fmt: skip
    plans, notes = plan_trials(entered, facts, contest, retained=contest.retention and bool(retained))

    def made(one: Plan) -> Trial:
        return try_editor(model, one, contest, by, retained if one.retained else ())

    with ranks(model.device.type) as me:
        if not me.alone and out is None:
            raise UsageError("several processes evaluate into one folder; give out= (--out)")
        store = TrialStore(None if out is None else OutFolder(out), identity)
        with store.locked() if me.is_first else nullcontext():
            _make(plans, store, made, me, progress=progress and me.is_first)
            return _result([(one, store[one.key]) for one in plans], notes)


def _make(
    plans: Sequence[Plan], store: TrialStore, made: Callable[[Plan], Trial], me: Ranks, *, progress: bool
) -> None:
    """Make the trials that are missing, each by one of the processes."""
    if me.is_first:
        store.open()
    me.barrier()  # the folder says whose it is
    by_key = {one.key: one for one in plans}
    missing = store.missing(list(by_key), told=me.is_first)
    me.barrier()  # everybody has seen the same trials missing
    mine = {missing[index] for index in me.share(len(missing))}
    facts = sum(len(one.facts) for one in plans)
    with _kept_in(store, plans), progress_bar("editing facts", facts, shown=progress) as advance:
        for one in plans:
            if one.key in mine:
                store.add(one.key, made(one))
                mine.remove(one.key)
            advance(len(one.facts))
    me.barrier()  # all trials are there
    if me.is_first:
        store.clear_parts(list(by_key))
    me.barrier()  # nobody reads what is cleared away


@contextmanager
def _kept_in(store: TrialStore, plans: Sequence[Plan]) -> Iterator[None]:
    """Say of what stops an evaluation what is kept of it, and that it can go on."""
    try:
        yield
    except (KeyboardInterrupt, MechinterpError) as error:
        if isinstance(error, UsageError) or (store.folder is None and isinstance(error, MechinterpError)):
            raise
        keys = {one.key for one in plans}
        where = f"{len(keys) - len(store.missing(list(keys)))} of {len(keys)} trials are kept in {store.folder}"
        kept = f"{where}; start the same run again to go on" if store.folder else "nothing is kept without a folder"
        if isinstance(error, KeyboardInterrupt):
            raise MechinterpError(f"interrupted: {kept}") from None
        if isinstance(error, StorageError):
            done = [(one, store[one.key]) for one in plans if one.key in store]
            said = f"{error}; what was made so far is still in memory (`result` of this error), and {kept}"
            raise NotSavedError(said, _result(done, []) if done else None) from error
        raise MechinterpError(f"{error}; {kept}") from error


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
