"""Which facts are asked about which edit, and how they stand to what it was asked to do."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from ...editing import Edit, EditRequest
from ...errors import UsageError
from ...facts.prompts import Fact
from ...given import seed_of, several, whole
from ..evaluation.under_edits import Failed

EDITED = "edited"
SAME_SUBJECT = "same subject"
SAME_RELATION = "same relation"
OTHER = "other"

KIN = (EDITED, SAME_SUBJECT, SAME_RELATION, OTHER)
"""How a fact stands to an edit: it is what was edited; it has the subject; it has the relation; neither."""

Edits = Edit | Sequence[Edit | Failed]
"""One edit, or several that have nothing to do with each other."""


def made_edits(edits: Edits) -> dict[int, Edit]:
    """The edits there are, by number; those that could not be made are passed over.

    Raises:
        UsageError: there is none.
    """
    given = several(edits, (Edit, Failed), "edits", "edits (or Failed, where one could not be made)")
    found = {number: edit for number, edit in enumerate(given) if isinstance(edit, Edit)}
    if not found:
        raise UsageError("there is no edit to look at; give at least one that was made")
    return found


def facts_of_edits(edits: Iterable[int], facts: Sequence[Fact], sample: int | None, seed: int) -> dict[int, list[int]]:
    """Edit -> the numbers of the facts asked about it: all, or a seeded sample of its own.

    Raises:
        UsageError: no facts, a fact without an answer, two facts of one name, or a sample of nothing.
    """
    if not facts:
        raise UsageError("there are no facts to ask about; give at least one")
    seen: set[str] = set()
    for fact in facts:
        if fact.answer is None:
            raise UsageError(
                f"the fact {fact.id!r} has no answer that an edit could take away; give facts with answers"
            )
        if fact.id in seen:
            raise UsageError(f"two facts are called {fact.id!r}; give their prompts different ids")
        seen.add(fact.id)
    seed, sample = seed_of(seed), None if sample is None else whole(sample, "sample")
    if sample is not None and sample < 1:
        raise UsageError(f"sample={sample} asks about no fact; give 1 or more, or None for all")
    every = list(range(len(facts)))
    if sample is None or sample >= len(facts):
        return dict.fromkeys(edits, every)
    return {number: sorted(random.Random(f"{seed} {number}").sample(every, sample)) for number in edits}


def requests_of(edit: Edit) -> tuple[EditRequest, ...]:
    """What all parts of an edit were asked to do."""
    return tuple(request for part in edit.parts for request in part.provenance.requests)


def kin_of(edit: Edit, facts: Sequence[Fact]) -> list[str]:
    """How each fact stands to an edit (`KIN`); relations that are not known make no kin."""
    prompts = [request.prompt for request in requests_of(edit)]
    texts = {prompt.text for prompt in prompts}
    subjects = {prompt.subject for prompt in prompts}
    relations = {prompt.relation for prompt in prompts} - {""}
    pairs = {(prompt.subject, prompt.relation) for prompt in prompts if prompt.relation}
    return [
        EDITED
        if fact.prompt.text in texts or (fact.subject, fact.relation) in pairs
        else SAME_SUBJECT
        if fact.subject in subjects
        else SAME_RELATION
        if fact.relation in relations
        else OTHER
        for fact in facts
    ]
