"""Facts of a bundled model or of a file."""

from __future__ import annotations

from pathlib import Path

from .. import atlas
from ..facts.prompts import Fact
from ..formats.readers import read_fact_file


def read_facts(source: str | Path, *, skip_bad: bool = False) -> list[Fact]:
    """Facts of a bundled model or of a file, whichever of the known shapes it has (its first record says).

    Known are known_1000, CounterFact and its flat form of the model hub, zsRE (with portability), WikiBigEdit,
    EasyEdit's files, KnowEdit and QAEdit, MQuAKE, RippleEdits, LRE, request lists of rome and memit, the project's own
    JSON lines, and CSV, TSV and parquet with the fields of any of them as columns.

    Args:
        source: `"atlas"` or `"atlas-plain"` (where `known` says what that model knows), or the path of a file.
        skip_bad: leave out records that are wrong, and warn of them, in place of refusing the file.

    Raises:
        UsageError: no such file, or anything wrong with it (every bad record is named, up to ten).
    """
    if str(source) in atlas.names():
        return atlas.facts(str(source))
    return read_fact_file(source, skip_bad=skip_bad)
