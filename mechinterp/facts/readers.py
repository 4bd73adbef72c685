"""Files of facts: known_1000 and CounterFact as published, and JSON lines of the user's own.

Whatever is wrong with a file is said in one message that names every bad record, and then nothing of it is returned;
unless the user has the bad ones left out, which is said too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from ..runs.terminal import brief
from .faults import refuse
from .jsonl import own_fact
from .jsonl import write_jsonl as write_jsonl
from .prompts import Fact
from .published import counterfact_fact, known_fact
from .records import Record, RecordFile, read_records

FactOf = Callable[[Record], Fact]


def read_fact_file(path: str | Path, *, skip_bad: bool = False) -> list[Fact]:
    """Facts of a file, whichever of the three shapes it has (its first record says).

    Raises:
        UsageError: no such file, or anything wrong with it (every bad record is named, up to ten).
    """
    file = read_records(path)
    return _facts(file, _shape(file), skip_bad=skip_bad)


def read_known(path: str | Path, *, skip_bad: bool = False) -> list[Fact]:
    """Facts of known_1000 (Meng et al. 2022), ids `"known_1000/0"` and so on; the answer is the attribute.

    Raises:
        UsageError: no such file, or anything wrong with it, as in `read_fact_file`.
    """
    return _facts(read_records(path), known_fact, skip_bad=skip_bad)


def read_counterfact(path: str | Path, *, skip_bad: bool = False) -> list[Fact]:
    """Facts of CounterFact (Meng et al. 2022), ids `"counterfact/0"` and so on, with the questions around them.

    Raises:
        UsageError: no such file, or anything wrong with it, as in `read_fact_file`.
    """
    return _facts(read_records(path), counterfact_fact, skip_bad=skip_bad)


def read_jsonl(path: str | Path, *, skip_bad: bool = False) -> list[Fact]:
    """Facts of the user's own, one JSON object on each line (or one JSON array of them).

    The least a line can hold is `{"template": "{} is in", "subject": "Rome", "answer": "Italy"}`, or "prompt" with a
    finished sentence in place of "template"; `mechinterp.facts.jsonl` lists the other fields.

    Raises:
        UsageError: no such file, or anything wrong with it, such as a field of unknown name; as in `read_fact_file`.
    """
    return _facts(read_records(path), own_fact, skip_bad=skip_bad)


def _shape(file: RecordFile) -> FactOf:
    """What the file's facts are read by: its first record that has a shape says."""
    shapes: dict[str, FactOf] = {
        "requested_rewrite": counterfact_fact, "known_id": known_fact, "template": own_fact, "prompt": own_fact
    }  # fmt: skip
    for record in file.records:
        for key, fact_of in shapes.items():
            if record.has(key):
                return fact_of
    if not file.records:
        return own_fact
    raise UsageError(
        f'{file.records[0].where} is no fact: it has neither "requested_rewrite" (CounterFact) nor "known_id" '
        '(known_1000) nor "template" or "prompt" (JSON lines); give a file of one of these shapes'
    )


def _facts(file: RecordFile, fact_of: FactOf, *, skip_bad: bool) -> list[Fact]:
    """All facts, each with a name of its own."""
    facts: list[Fact] = []
    faults: list[str] = []
    places: dict[str, str] = {}
    for entry in file.entries:
        if isinstance(entry, str):
            faults.append(entry)
            continue
        try:
            fact = entry.make(fact_of, entry)
        except UsageError as error:
            faults.append(str(error))
            continue
        if fact.id in places:
            faults.append(
                f'{entry.where} is called {brief(fact.id)} like {places[fact.id]}; give each an "id" of its own'
            )
            continue
        places[fact.id] = entry.where
        facts.append(fact)
    refuse(faults, len(file.entries), file.path, skip_bad=skip_bad)
    return facts


def _fact(record: Record, fact_of: Callable[[Record], Fact]) -> Fact:
    """A record's fact; what a prompt or a question refuses is told with the record it stands in."""
    try:
        return fact_of(record)
    except UsageError as error:
        if record.where in str(error):
            raise
        raise UsageError(f"{record.where}: {error}") from error
