"""Which facts of a source a command takes, and a word on each that is left out."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError
from .screen import leave_word

if TYPE_CHECKING:
    from ..facts.prompts import Fact
    from ..models.model import Model

_NAMED = 5
"""Facts that are named where some are left out."""


def choose_facts(
    source: str, limit: int | None, relation: str | None, seed: int, *, skip_bad: bool = False
) -> list[Fact]:
    """Facts of a file or bundled model: those of a relation, the known ones where that is recorded, a seeded sample."""
    from ..reading.facts import read_facts

    return choose(read_facts(source, skip_bad=skip_bad), source, limit, relation, seed)


def choose(facts: list[Fact], source: str, limit: int | None, relation: str | None, seed: int) -> list[Fact]:
    """Of the facts of a source those of a relation, the known ones where that is recorded, a seeded sample.

    What is left out for another reason than that the user named a relation is said.

    Raises:
        UsageError: none is left.
    """
    found = of_relation(facts, relation, source)
    known = [fact for fact in found if fact.known is not False]
    if len(known) < len(found):
        unknown = len(found) - len(known)
        said(f"{unknown} of {len(found)} facts of {source} are recorded as not known to the model, and left out")
    if not known:
        raise UsageError(f"every fact of {source} is recorded as not known to the model ('known' is false)")
    return sample(known, limit, seed)


def with_objects(facts: list[Fact], source: str, fields: Sequence[str]) -> list[Fact]:
    """The facts that say what an edit is to write (and what is true now); those left out are named.

    Args:
        facts: of a source.
        source: its name.
        fields: what each must have: "target_new", "answer".

    Raises:
        UsageError: none has it.
    """
    for field in fields:
        lacking = [fact.id for fact in facts if getattr(fact, field) is None]
        if len(lacking) == len(facts):
            raise UsageError(f"no fact of {source} has the field {field!r} that an edit needs; add it to each")
        if lacking:
            named = ", ".join(map(repr, lacking[:_NAMED])) + (", ..." if len(lacking) > _NAMED else "")
            said(f"left out: {len(lacking)} of {len(facts)} facts of {source} have no {field} ({named})")
        facts = [fact for fact in facts if getattr(fact, field) is not None]
    return facts


def known_to(model: Model, facts: list[Fact], limit: int | None, seed: int, *, quiet: bool) -> list[Fact]:
    """A seeded sample of the facts that a model knows, which is said.

    Raises:
        UsageError: it knows none.
    """
    from ..analysis import some_known

    found, asked = some_known(model, facts, limit or len(facts), seed=seed, progress=not quiet)
    if not found:
        raise UsageError(f"{model.name} says the answer of none of the {asked} facts by itself; give others")
    said(f"{len(found)} facts that {model.name} knows, among {asked} that were asked in the order of seed {seed}")
    return found


def of_relation(facts: list[Fact], relation: str | None, source: str) -> list[Fact]:
    """Those of a relation, or all.

    Raises:
        UsageError: there are none of it; those there are are named.
    """
    if relation is None:
        return facts
    found = [fact for fact in facts if fact.relation == relation]
    if not found:
        there = sorted({fact.relation for fact in facts} - {""})
        names = f"it has {', '.join(there)}" if there else "its facts name no relation"
        raise UsageError(f"there is no relation {relation!r} in {source}; {names}")
    return found


def sample(facts: list[Fact], limit: int | None, seed: int) -> list[Fact]:
    """A seeded sample of so many facts, which is said; all of them where there are no more."""
    if limit is None or limit >= len(facts):
        return facts
    said(f"{limit} of {len(facts)} facts, chosen with seed {seed}")
    return random.Random(seed).sample(facts, limit)


def said(sentence: str) -> None:
    """Say what was chosen or left out, on standard error so that results can be piped; once under torchrun."""
    if os.environ.get("RANK", "0") == "0":
        leave_word(sentence, "note")
