"""Texts of the user's own, one document at a time: for second moments and perplexities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .. import atlas
from ..errors import UsageError
from .faults import NAMED, refuse
from .records import BadRecord, record_of_line
from .user_files import opened


def read_texts(source: str | Path, *, skip_bad: bool = False) -> Iterator[str]:
    """Documents of a text file, a JSON-lines file, or the bundled corpus.

    Args:
        source: `"atlas"` or `"atlas-plain"` (one epoch of the text that model was trained on); a `.jsonl` file whose
            lines have a "text" (blank ones are no documents); any other file is plain text, its documents separated by
            empty lines.
        skip_bad: leave out documents that are wrong, and warn of them at the end, in place of refusing the file.

    Raises:
        UsageError: no such file, one that may not be read, no text in it; a line that is no JSON object with a "text",
            or whose bytes are no UTF-8.  The rest of the file is then looked at, and every bad document named, up to
            ten.
    """
    if str(source) in atlas.names():
        yield from atlas.corpus(name=str(source))
        return
    path, given = Path(source), 0
    faults: list[str] = []
    documents = _json_lines(path) if path.suffix == ".jsonl" else _paragraphs(path)
    try:
        for text, fault in documents:
            if fault:
                faults.append(fault if len(faults) < NAMED else "")
                continue
            given += 1
            if skip_bad or not faults:
                yield text
    except GeneratorExit:  # whoever reads has enough; what was left out so far is said all the same
        refuse(faults, given + len(faults), source, "texts read", skip_bad=True)
        raise
    refuse(faults, given + len(faults), source, "texts", skip_bad=skip_bad)
    if not given:
        raise UsageError(f"there is no text in {str(source)!r}")


def check_texts(source: str | Path, *, skip_bad: bool = False) -> None:
    """Look at a file of texts up to its first document, before anything is done with it.

    Raises:
        UsageError: as `read_texts`, as far as that shows.
    """
    next(read_texts(source, skip_bad=skip_bad))


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Numbered lines, without their ends, and what is wrong with them; a byte order mark is no part of the text."""
    with opened(path, "the text file", f"give a .txt or .jsonl file, or {atlas.names()[0]!r}") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"), ""
            except UnicodeDecodeError as error:
                yield (
                    number,
                    "",
                    (f"line {number} of {str(path)!r} is not UTF-8 text (byte {error.start}); convert it first"),
                )


def _paragraphs(path: Path) -> Iterator[tuple[str, str]]:
    """Documents, each with what is wrong with it: the first line of it that is no text."""
    lines: list[str] = []
    wrong = ""
    for _, line, fault in _lines(path):
        wrong = wrong or fault
        if line.strip():
            lines.append(line)
        elif not fault and (lines or wrong):
            yield "\n".join(lines), wrong
            lines, wrong = [], ""
    if lines or wrong:
        yield "\n".join(lines), wrong


def _json_lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line, fault in _lines(path):
        if fault:
            yield "", fault
        elif line.strip():
            try:
                text = record_of_line(line, number, str(path)).string("text")
            except BadRecord as error:
                yield "", str(error)
            else:
                if text.strip():
                    yield text, ""
