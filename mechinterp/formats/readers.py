"""Files of facts, whichever of the known shapes they have; and the two published collections and JSON lines by name.

Whatever is wrong with a file is said in one message that names every bad record, and then nothing of it is returned;
unless the user has the bad ones left out, which is said too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import UsageError
from ..facts.faults import refuse
from ..facts.prompts import Fact
from ..facts.records import Record, RecordFile, read_records
from ..runs.terminal import brief
from .jsonl import own_fact
from .jsonl import write_jsonl as write_jsonl
from .meng import counterfact_fact, known_fact
from .mquake import mquake_facts, needs_several
from .shapes import OWN, SHAPES, Shape, shape_of
from .tables import is_table, read_table

FactsOf = Callable[[Record], Fact | list[Fact]]


def read_fact_file(path: str | Path, *, skip_bad: bool = False) -> list[Fact]:
    """Facts of a file, whichever of the shapes it has (its first record says; `shapes.SHAPES` lists them).

    Raises:
        UsageError: no such file, or anything wrong with it (every bad record is named, up to ten).
    """
    file = _records(path)
    shape = _shape(file)
    facts = _facts(file, shape.facts_of, skip_bad=skip_bad)
    several = sum(map(needs_several, file.records)) if shape.facts_of is mquake_facts else 0
    if several:
        warnings.warn(
            f"{several} of the {len(file.entries)} records of {str(path)!r} ask what follows from several edits "
            "together; their edits are read one by one, and those questions are left out",
            stacklevel=3,
        )
    return facts


def name_of_shape(path: str | Path) -> str:
    """What the shape of a file is called, "zsRE" say.

    Raises:
        UsageError: as `read_fact_file`.
    """
    return _shape(_records(path)).name


def read_known(path: str | Path, *, skip_bad: bool = False) -> list[Fact]:
    """Facts of known_1000 (Meng et al. 2022), ids `"known_1000/0"` and so on; the answer is the attribute.

    Raises:
        UsageError: no such file, or anything wrong with it, as in `read_fact_file`.
    """
    return _facts(_records(path), known_fact, skip_bad=skip_bad)


def read_counterfact(path: str | Path, *, skip_bad: bool = False) -> list[Fact]:
    """Facts of CounterFact (Meng et al. 2022), ids `"counterfact/0"` and so on, with the questions around them.

    Raises:
        UsageError: no such file, or anything wrong with it, as in `read_fact_file`.
    """
    return _facts(_records(path), counterfact_fact, skip_bad=skip_bad)


def read_jsonl(path: str | Path, *, skip_bad: bool = False) -> list[Fact]:
    """Facts of the user's own, one JSON object on each line (or one JSON array of them).

    The least a line can hold is `{"template": "{} is in", "subject": "Rome", "answer": "Italy"}`, or "prompt" with a
    finished sentence in place of "template"; `mechinterp.formats.jsonl` lists the other fields.

    Raises:
        UsageError: no such file, or anything wrong with it, such as a field of unknown name; as in `read_fact_file`.
    """
    return _facts(_records(path), own_fact, skip_bad=skip_bad)


def _with_foil(record: Record, made: Fact | list[Fact]) -> list[Fact]:
    """The facts of a record, whatever its shape, with the "foil" that it may have."""
    facts = made if isinstance(made, list) else [made]
    foil = record.optional_text("foil")
    if foil is None:
        return facts
    return [record.make(replace, fact, prompt=record.make(replace, fact.prompt, foil=foil)) for fact in facts]


def _records(path: str | Path) -> RecordFile:
    return read_table(path) if is_table(path) else read_records(path)


def _shape(file: RecordFile) -> Shape:
    """The shape of the file's first record that has one."""
    found = next(filter(None, map(shape_of, file.records)), None)
    if found is None and not file.records:
        return OWN
    if found is None:
        told = " nor ".join(f"{shape.told_by} ({shape.name})" for shape in SHAPES)
        raise UsageError(
            f"{file.records[0].where} is no fact: it has neither {told}; give a file of one of these shapes"
        )
    return found


def _facts(file: RecordFile, facts_of: FactsOf, *, skip_bad: bool) -> list[Fact]:
    """All facts, each with a name of its own."""
    facts: list[Fact] = []
    faults: list[str] = []
    places: dict[str, str] = {}
    for entry in file.entries:
        if isinstance(entry, str):
            faults.append(entry)
            continue
        try:
            made = _with_foil(entry, entry.make(facts_of, entry))
        except UsageError as error:
            faults.append(str(error))
            continue
        for fact in made:
            if fact.id in places:
                faults.append(
                    f'{entry.where} is called {brief(fact.id)} like {places[fact.id]}; give each an "id" of its own'
                )
                break
            places[fact.id] = entry.where
            facts.append(fact)
    refuse(faults, len(file.entries), file.path, skip_bad=skip_bad)
    return facts
