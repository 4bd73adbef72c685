"""Which trials a leaderboard consists of: facts shared out to groups, each edited in one way by one editor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UsageError
from ...facts.prompts import Fact
from .contenders import Contender
from .contest import BATCH, MODES, SEQUENTIAL, SINGLE, Contest

SINGLES_AT_ONCE = 64
"""Single edits that are made and judged together, and are lost together when a run is killed."""


@dataclass(frozen=True)
class Plan:
    """A trial to come.

    Args:
        contender: the editor.
        edits, size: its row of the table.
        group: the number of the first edit in it.
        facts: what is edited.
        mode: how; an edit of one fact is a single one, whatever its row is called.
        per_step: facts edited together in each step of a sequence.
        retained: whether the sequence is looked at on its way.
    """

    contender: Contender
    edits: str
    size: int
    group: int
    facts: tuple[Fact, ...]
    mode: str
    per_step: int
    retained: bool

    @property
    def cell(self) -> tuple[str, str, int]:
        """Editor, edits and size."""
        return self.contender.name, self.edits, self.size

    @property
    def key(self) -> str:
        """A name for files: two plans of one key are the same trial."""
        parts = [self.contender.name, self.mode, str(len(self.facts)), str(self.group)]
        parts += [f"by-{self.per_step}"] if self.mode == SEQUENTIAL else []
        parts += ["retention"] if self.retained else []
        return "-".join([*parts, self.contender.settings])


def check_plan(facts: Sequence[Fact], contest: Contest) -> None:
    """Look at what is asked for before anything is done.

    Raises:
        UsageError: no facts, an unknown way of editing, sizes that the facts do not fill.
    """
    modes, sizes = contest.modes, contest.numbers
    wrong = [mode for mode in modes if mode not in MODES]
    if wrong or not modes:
        raise UsageError(f"edits={wrong[0] if wrong else ''!r} is no way of editing; choose among {', '.join(MODES)}")
    if not facts:
        raise UsageError("there are no facts to edit; give at least one")
    if set(modes) != {SINGLE}:
        if not sizes or min(sizes) < 1:
            raise UsageError(f"sizes={list(sizes)} are no numbers of facts; give some from 1 on")
        if max(sizes) > len(facts):
            raise UsageError(f"{max(sizes)} facts are to be edited together, but only {len(facts)} were given")
    for name, value in (("groups", contest.groups), ("per_step", contest.per_step)):
        if value is not None and value < 1:
            raise UsageError(f"{name}={value} edits nothing; give 1 or more")


def plan_trials(
    contenders: Sequence[Contender],
    facts: Sequence[Fact],
    contest: Contest,
    *,
    retained: bool,
) -> tuple[list[Plan], list[str]]:
    """All trials in order, and sentences on what is left out."""
    plans, notes = [], []
    sizes, per_step, groups = contest.numbers, contest.per_step, contest.groups
    for one in contenders:
        for edits in contest.modes:
            if edits == SEQUENTIAL and per_step > 1 and not one.editor.batch:
                notes.append(f"{one.name} is absent from sequences: it writes one fact at a time, not {per_step}")
                continue
            for size in [1] if edits == SINGLE else sorted(set(sizes)):
                if edits == BATCH and size > 1 and not one.editor.batch:
                    notes.append(f"{one.name} is absent from batches of {size}: it writes one fact at a time")
                    continue
                mode = SINGLE if size == 1 else edits
                length = SINGLES_AT_ONCE if size == 1 else size
                parts = [tuple(facts[start : start + length]) for start in range(0, len(facts), length)]
                used = parts if size == 1 else [part for part in parts if len(part) == size][:groups]
                left = len(facts) - sum(map(len, used))
                if left:
                    notes.append(f"{edits} edits of {size}: {left} of {len(facts)} facts are in no group")
                for number, part in enumerate(used):
                    looked = retained and mode == SEQUENTIAL and size == max(sizes) and number == 0
                    first = number * SINGLES_AT_ONCE if size == 1 else number
                    plans.append(Plan(one, edits, size, first, part, mode, per_step, looked))
    return plans, notes
