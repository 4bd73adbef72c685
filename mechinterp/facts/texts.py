"""Texts of the user's own, one document at a time: for second moments and perplexities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError
from .faults import NAMED, refuse
from .records import BadRecord, record_of_line
from .user_files import opened


def read_text_file(
    source: str | Path, *, hint: str = "give a .txt or .jsonl file", skip_bad: bool = False
) -> Iterator[str]:
    """Documents of a text file or a JSON-lines file.

    Args:
        source: a `.jsonl` file whose lines have a "text" (blank ones are no documents); any other file is plain text,
            its documents separated by empty lines.
        hint: what to give in place of a file that cannot be read.
        skip_bad: leave out documents that are wrong, and warn of them at the end, in place of refusing the file.

    Raises:
        UsageError: no such file, one that may not be read, no text in it; a line that is no JSON object with a "text",
            or whose bytes are no UTF-8.  The rest of the file is then looked at, and every bad document named, up to
            ten.
    """
    path, given = Path(source), 0
    faults: list[str] = []
    documents = _json_lines(path, hint) if path.suffix == ".jsonl" else _paragraphs(path, hint)
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


def _lines(path: Path, hint: str) -> Iterator[tuple[int, str, str]]:
    """Numbered lines, without their ends, and what is wrong with them; a byte order mark is no part of the text."""
    with opened(path, "the text file", hint) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"), ""
            except UnicodeDecodeError as error:
                yield (
                    number,
                    "",
                    (f"line {number} of {str(path)!r} is not UTF-8 text (byte {error.start}); convert it first"),
                )


def _paragraphs(path: Path, hint: str) -> Iterator[tuple[str, str]]:
    """Documents, each with what is wrong with it: the first line of it that is no text."""
    lines: list[str] = []
    wrong = ""
    for _, line, fault in _lines(path, hint):
        wrong = wrong or fault
        if line.strip():
            lines.append(line)
        elif not fault and (lines or wrong):
            yield "\n".join(lines), wrong
            lines, wrong = [], ""
    if lines or wrong:
        yield "\n".join(lines), wrong


def _json_lines(path: Path, hint: str) -> Iterator[tuple[str, str]]:
    for number, line, fault in _lines(path, hint):
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
