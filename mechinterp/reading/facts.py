"""Facts of a bundled model or of a file."""

from __future__ import annotations

from pathlib import Path

from .. import atlas
from ..facts.prompts import Fact
from ..facts.readers import read_fact_file


def read_facts(source: str | Path, *, skip_bad: bool = False) -> list[Fact]:
    """Facts of a bundled model or of a file, whichever of the three shapes it has (its first record says).

    Args:
        source: `"atlas"` or `"atlas-plain"` (where `known` says what that model knows), or the path of a known_1000,
            CounterFact or JSON-lines file.
        skip_bad: leave out records that are wrong, and warn of them, in place of refusing the file.

    Raises:
        UsageError: no such file, or anything wrong with it (every bad record is named, up to ten).
    """
    if str(source) in atlas.names():
        return atlas.facts(str(source))
    return read_fact_file(source, skip_bad=skip_bad)
