"""Texts of a bundled model's corpus or of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import atlas
from ..facts.texts import read_text_file


def read_texts(source: str | Path, *, skip_bad: bool = False) -> Iterator[str]:
    """Documents of a text file, a JSON-lines file, or the bundled corpus.

    Args:
        source: `"atlas"` or `"atlas-plain"` (one epoch of the text that model was trained on); else the path of a file
            (see `facts.texts.read_text_file`).
        skip_bad: leave out documents that are wrong, and warn of them at the end, in place of refusing the file.

    Raises:
        UsageError: what is wrong with the file.
    """
    if str(source) in atlas.names():
        yield from atlas.corpus(name=str(source))
        return
    hint = f"give a .txt or .jsonl file, or {atlas.names()[0]!r}"
    yield from read_text_file(source, hint=hint, skip_bad=skip_bad)


def check_texts(source: str | Path, *, skip_bad: bool = False) -> None:
    """Look at a file of texts up to its first document, before anything is done with it.

    Raises:
        UsageError: as `read_texts`, as far as that shows.
    """
    next(read_texts(source, skip_bad=skip_bad))
