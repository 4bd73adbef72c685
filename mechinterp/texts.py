"""Texts of the user's own, one document at a time: for second moments and perplexities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from . import atlas
from .errors import UsageError


def read_texts(source: str | Path) -> Iterator[str]:
    """Documents of a text file, a JSON-lines file, or the bundled corpus.

    Args:
        source: `"atlas"` or `"atlas-plain"` (one epoch of the text that model was trained on); a `.jsonl` file whose
            lines have a "text"; any other file is plain text, its documents separated by empty lines.

    Raises:
        UsageError: no such file, no text in it, a line that is no JSON object with a "text" (the line is named), bytes
            that are no UTF-8.
    """
    if str(source) in atlas.names():
        yield from atlas.corpus(name=str(source))
        return
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"there is no text file {str(source)!r}; give a .txt or .jsonl file, or {atlas.names()[0]!r}")
    try:
        documents = _json_lines(path) if path.suffix == ".jsonl" else _paragraphs(path)
        empty = True
        for document in documents:
            empty = False
            yield document
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(source)!r} is not UTF-8 text (byte {error.start}); convert it first") from error
    if empty:
        raise UsageError(f"there is no text in {str(source)!r}")


def _paragraphs(path: Path) -> Iterator[str]:
    lines: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                lines.append(line.rstrip("\n"))
            elif lines:
                yield "\n".join(lines)
                lines = []
    if lines:
        yield "\n".join(lines)


def _json_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UsageError(f'line {number} of {str(path)!r} is no JSON object with a "text"') from error
            if isinstance(text, str) and text.strip():
                yield text
