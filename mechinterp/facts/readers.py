"""Files of facts: known_1000 and CounterFact as published, and JSON lines of the user's own.

Whatever is wrong with a file is said in one sentence that names the record, and then nothing of it is returned.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .. import atlas
from ..errors import UsageError
from .jsonl import own_fact
from .jsonl import write_jsonl as write_jsonl
from .prompts import Fact
from .published import counterfact_fact, known_fact
from .records import Record, read_records


def read_facts(source: str | Path) -> list[Fact]:
    """Facts of a bundled model or of a file, whichever of the three shapes it has (its first record says).

    Args:
        source: `"atlas"` or `"atlas-plain"` (where `known` says what that model knows), or the path of a known_1000,
            CounterFact or JSON-lines file.

    Raises:
        UsageError: no such file, or anything wrong with it (the record is named).
    """
    if str(source) in atlas.names():
        return atlas.facts(str(source))
    records = read_records(source)
    return _facts(records, _shape(records[0]))


def read_known(path: str | Path) -> list[Fact]:
    """Facts of known_1000 (Meng et al. 2022), ids `"known_1000/0"` and so on; the answer is the attribute.

    Raises:
        UsageError: no such file, or anything wrong with it (the record is named).
    """
    return _facts(read_records(path), known_fact)


def read_counterfact(path: str | Path) -> list[Fact]:
    """Facts of CounterFact (Meng et al. 2022), ids `"counterfact/0"` and so on, with the questions around them.

    Raises:
        UsageError: no such file, or anything wrong with it (the record is named).
    """
    return _facts(read_records(path), counterfact_fact)


def read_jsonl(path: str | Path) -> list[Fact]:
    """Facts of the user's own, one JSON object on each line (or one JSON array of them).

    The least a line can hold is `{"template": "{} is in", "subject": "Rome", "answer": "Italy"}`, or "prompt" with a
    finished sentence in place of "template"; `mechinterp.facts.jsonl` lists the other fields.

    Raises:
        UsageError: no such file, or anything wrong with it (the line is named), such as a field of unknown name.
    """
    return _facts(read_records(path), own_fact)


def _shape(record: Record) -> Callable[[Record], Fact]:
    if record.has("requested_rewrite"):
        return counterfact_fact
    if record.has("known_id"):
        return known_fact
    if record.has("template") or record.has("prompt"):
        return own_fact
    raise UsageError(
        f'{record.where} is no fact: it has neither "requested_rewrite" (CounterFact) nor "known_id" (known_1000) nor '
        '"template" or "prompt" (JSON lines); give a file of one of these shapes'
    )


def _facts(records: list[Record], fact_of: Callable[[Record], Fact]) -> list[Fact]:
    """All facts, each with a name of its own."""
    facts: list[Fact] = []
    places: dict[str, str] = {}
    for record in records:
        fact = _fact(record, fact_of)
        if fact.id in places:
            raise UsageError(
                f'{record.where} is called {fact.id!r} like {places[fact.id]}; give each an "id" of its own'
            )
        places[fact.id] = record.where
        facts.append(fact)
    return facts


def _fact(record: Record, fact_of: Callable[[Record], Fact]) -> Fact:
    """A record's fact; what a prompt or a question refuses is told with the record it stands in."""
    try:
        return fact_of(record)
    except UsageError as error:
        if record.where in str(error):
            raise
        raise UsageError(f"{record.where}: {error}") from error
