"""Texts of the user's own, one document at a time: for second moments and perplexities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from .. import atlas
from ..errors import UsageError
from ..runs.files import reading


def read_texts(source: str | Path) -> Iterator[str]:
    """Documents of a text file, a JSON-lines file, or the bundled corpus.

    Args:
        source: `"atlas"` or `"atlas-plain"` (one epoch of the text that model was trained on); a `.jsonl` file whose
            lines have a "text"; any other file is plain text, its documents separated by empty lines.

    Raises:
        UsageError: no such file, no text in it, a line that is no JSON object with a "text", bytes that are no UTF-8
            (the line is named).
    """
    if str(source) in atlas.names():
        yield from atlas.corpus(name=str(source))
        return
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"there is no text file {str(source)!r}; give a .txt or .jsonl file, or {atlas.names()[0]!r}")
    empty = True
    for document in _json_lines(path) if path.suffix == ".jsonl" else _paragraphs(path):
        empty = False
        yield document
    if empty:
        raise UsageError(f"there is no text in {str(source)!r}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, without their ends; a byte order mark is no part of the text."""
    with reading(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"line {number} of {str(path)!r} is not UTF-8 text (byte {error.start}); convert it first"
                ) from error


def _paragraphs(path: Path) -> Iterator[str]:
    lines: list[str] = []
    for _, line in _lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def _json_lines(path: Path) -> Iterator[str]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (json.JSONDecodeError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise UsageError(f'line {number} of {str(path)!r} is no JSON object with a "text"')
        if text.strip():
            yield text
