"""Records of a JSON file, each knowing where it stands so that errors can say so.

A file is either one JSON array of objects (as known_1000 and CounterFact are published), JSON lines (one object on each
line) or one object over many lines; its beginning says which.  An array must be whole; of JSON lines, and of the
objects of an array, each bad one is a fault of its own, so that all of them can be named at once.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UsageError
from ..runs.terminal import brief
from .strict_json import DECODER, end_of, fault_of
from .user_files import read_text

_NAMES = ("case_id", "known_id", "id")
_HINT = "give the path of a JSON or JSON-lines file"

_Made = TypeVar("_Made")


class BadRecord(UsageError):
    """Something is wrong with a record; the message begins with its place."""


@dataclass(frozen=True)
class Record:
    """One JSON object and its place: `where` reads like "record 3 (case_id 70) of 'counterfact.json'".

    Every reading method raises a `BadRecord` that names the place when the field is missing or of another kind.  A
    field that is null counts as missing.  `number` is its place in the file, from 1.
    """

    where: str
    fields: dict[str, Any]
    number: int = 0

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(key) is not None

    def text(self, key: str) -> str:
        """A field that must be a text and not blank."""
        if not self.has(key):
            raise BadRecord(f'{self.where} has no "{key}"; add it')
        return self._checked_text(key, self.fields[key])

    def string(self, key: str) -> str:
        """A field that must be a text, and may be blank."""
        if not isinstance(self.fields.get(key), str):
            raise BadRecord(f'{self.where} has no "{key}" that is a text; add it')
        return str(self.fields[key])

    def optional_text(self, key: str) -> str | None:
        """A text, or None where the field is missing."""
        return self.text(key) if self.has(key) else None

    def name(self, key: str) -> str:
        """An identifier: a text or a whole number."""
        value = self.fields.get(key)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(key)

    def items(self, key: str) -> list[Any]:
        """A list, empty where the field is missing."""
        value = self.fields[key] if self.has(key) else []
        if not isinstance(value, list):
            raise BadRecord(f'the "{key}" of {self.where} is no list; write it in square brackets')
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, empty where the field is missing."""
        return tuple(self._checked_text(key, value) for value in self.items(key))

    def child(self, key: str) -> Record:
        """An object within the record."""
        if not self.has(key):
            raise BadRecord(f'{self.where} has no "{key}"; add it')
        return self.within(key, self.fields[key])

    def within(self, key: str, value: Any) -> Record:
        """A value found under the field, which must be an object."""
        if not isinstance(value, dict):
            raise BadRecord(f'the "{key}" of {self.where} holds {brief(value)}, which is no JSON object')
        return Record(f'the "{key}" of {self.where}', value, self.number)

    def make(self, kind: Callable[..., _Made], *values: Any, **named: Any) -> _Made:
        """Something made of the record's values; what is wrong with them is told with its place."""
        try:
            return kind(*values, **named)
        except BadRecord:
            raise
        except UsageError as error:
            raise BadRecord(f"{self.where}: {error}") from error

    def _checked_text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not any(map(_seen, value)):
            raise BadRecord(f'the "{key}" of {self.where} holds {brief(value)}, which is no text; write words')
        steering = next((char for char in value if unicodedata.category(char) == "Cc" and not char.isspace()), None)
        if steering is not None:
            raise BadRecord(
                f'the "{key}" of {self.where} holds {brief(value)}, with the control character {steering!r}; leave it '
                "out"
            )
        return value


@dataclass(frozen=True)
class RecordFile:
    """What a file holds, in order: records, and in place of each that is none a sentence on what is wrong."""

    path: str
    entries: tuple[Record | str, ...]

    @property
    def records(self) -> list[Record]:
        """Those that are records."""
        return [entry for entry in self.entries if isinstance(entry, Record)]


def read_records(path: str | Path) -> RecordFile:
    """All records of a file.

    Raises:
        UsageError: no such file, one that may not be read, no UTF-8, empty, no JSON, an array that is cut short (the
            last whole record is named).
    """
    text = read_text(path, "the file of facts", _HINT)
    match text.lstrip()[:1]:
        case "":
            raise UsageError(f"{str(path)!r} is empty; give a file of facts")
        case "[":
            entries = _from_array(text, str(path))
        case "{":
            whole = text.lstrip().partition("\n")[0].strip() == "{"
            entries = _from_object(text, str(path)) if whole else _from_lines(text, str(path))
        case _:
            begins = brief(text.lstrip()[:20])
            raise UsageError(f"{str(path)!r} is no JSON (it begins with {begins}); give a file of facts")
    if not entries:
        raise UsageError(f"{str(path)!r} holds an empty list; give a file of facts")
    return RecordFile(str(path), tuple(entries))


def record_of_line(line: str, number: int, path: str) -> Record:
    """The record of one of a file's JSON lines.

    Raises:
        BadRecord: it is none.
    """
    place = f"line {number}"
    try:
        return _record(DECODER.decode(line), place, path, number)
    except json.JSONDecodeError as error:
        raise BadRecord(
            f"{place} of {path!r} is cut short or no JSON ({error.msg} at character {error.pos + 1}); write one whole "
            "object on each line"
        ) from error
    except RecursionError:
        raise _too_deep(place, path) from None


def _from_lines(text: str, path: str) -> list[Record | str]:
    entries: list[Record | str] = []
    # Not splitlines(), which also breaks at characters that may stand inside a JSON text (U+2028 and others).
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            entries.append(_or_fault(record_of_line, line, number, path))
    return entries


def _from_object(text: str, path: str) -> list[Record | str]:
    """One object over many lines."""
    try:
        return [_or_fault(_record, DECODER.decode(text), "record 1", path, 1)]
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            raise UsageError(f"{path!r} is cut short in line {error.lineno}; copy the file again") from error
        raise UsageError(f"{path!r} is no JSON from line {error.lineno} on ({error.msg}); mend it there") from error
    except RecursionError:
        return [str(_too_deep("record 1", path))]


def _from_array(text: str, path: str) -> list[Record | str]:
    try:
        values = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _broken_array(text, path, error) from error
    except RecursionError:
        return list(_elements(text, path))
    return [_or_fault(_record, value, f"record {number}", path, number) for number, value in enumerate(values, start=1)]


def _elements(text: str, path: str) -> Iterator[Record | str]:
    """The elements of an array one by one, of which some are nested too deeply to be decoded."""
    at, number = _blanks_end(text, text.index("[") + 1), 1
    while at < len(text) and text[at] != "]":
        try:
            value, at = DECODER.raw_decode(text, at)
            yield _or_fault(_record, value, f"record {number}", path, number)
        except json.JSONDecodeError as error:
            raise _broken_array(text, path, error) from error
        except RecursionError:
            at = end_of(text, at)
            yield str(_too_deep(f"record {number}", path))
        at, number = _blanks_end(text, at), number + 1
    if text[at:].strip() != "]":
        raise UsageError(f"{path!r} is cut short after record {number - 1}; copy the file again")


def _broken_array(text: str, path: str, error: json.JSONDecodeError) -> UsageError:
    """What to say of an array that does not parse: where it ends being sound, and after which record."""
    whole: list[Any] = []
    at = text.index("[") + 1
    try:
        while True:
            value, at = DECODER.raw_decode(text, _blanks_end(text, at))
            whole.append(value)
    except (json.JSONDecodeError, RecursionError):
        pass
    sound = f"its last whole record is number {len(whole)}{_named(whole[-1])}" if whole else "no record in it is whole"
    end = text.rstrip()
    if error.pos >= len(end) or not end.endswith("]") or error.msg.startswith("Unterminated string"):
        return UsageError(f"{path!r} is cut short in line {end.count(chr(10)) + 1}: {sound}; copy the file again")
    return UsageError(f"{path!r} is no JSON from line {error.lineno} on ({error.msg}): {sound}; mend it there")


def _blanks_end(text: str, at: int) -> int:
    """The first place from here on that is neither white space nor a comma."""
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _record(value: Any, place: str, path: str, number: int) -> Record:
    """The record of a decoded value."""
    if fault := fault_of(value):
        raise BadRecord(f"{place}{_named(value)} of {path!r} {fault}; mend it")
    if not isinstance(value, dict):
        raise BadRecord(f"{place} of {path!r} is no JSON object; write {{...}} with its fields")
    return Record(f"{place}{_named(value)} of {path!r}", value, number)


def _too_deep(place: str, path: str) -> BadRecord:
    return BadRecord(f"{place} of {path!r} is nested too deeply to be read; mend it")


def _or_fault(read: Callable[..., Record], *given: Any) -> Record | str:
    """A record, or what is wrong with it."""
    try:
        return read(*given)
    except BadRecord as error:
        return str(error)


def _named(value: Any) -> str:
    """The record's own identifier in brackets, where it has one that can be printed."""
    if isinstance(value, dict):
        for key in _NAMES:
            if isinstance(value.get(key), (str, int)):
                shown = brief(value[key], 40)
                return f" ({key} {shown[1:-1] if isinstance(value[key], str) else shown})"
    return ""


def _seen(char: str) -> bool:
    """Whether a character can be seen: neither white space nor one of the marks without width."""
    return not char.isspace() and unicodedata.category(char) not in ("Cf", "Cc")
