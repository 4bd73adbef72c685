"""Records of a JSON file, whole or not at all, each knowing where it stands so that errors can say so.

A file is either one JSON array of objects (as known_1000 and CounterFact are published) or JSON lines, one object on
each line; its first character says which.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..runs.files import reading

_NAMES = ("case_id", "known_id", "id")


@dataclass(frozen=True)
class Record:
    """One JSON object and its place: `where` reads like "record 3 (case_id 70) of 'counterfact.json'".

    Every reading method raises a `UsageError` that begins with `where` when the field is missing or of another kind.
    A field that is null counts as missing.
    """

    where: str
    fields: dict[str, Any]

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(key) is not None

    def text(self, key: str) -> str:
        """A field that must be a text and not blank."""
        if not self.has(key):
            raise UsageError(f'{self.where} has no "{key}"; add it')
        return self._checked_text(key, self.fields[key])

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
            raise UsageError(f'the "{key}" of {self.where} is no list; write it in square brackets')
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, empty where the field is missing."""
        return tuple(self._checked_text(key, value) for value in self.items(key))

    def child(self, key: str) -> Record:
        """An object within the record."""
        if not self.has(key):
            raise UsageError(f'{self.where} has no "{key}"; add it')
        return self.within(key, self.fields[key])

    def within(self, key: str, value: Any) -> Record:
        """A value found under the field, which must be an object."""
        if not isinstance(value, dict):
            raise UsageError(f'the "{key}" of {self.where} holds {value!r}, which is no JSON object')
        return Record(f'the "{key}" of {self.where}', value)

    def _checked_text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f'the "{key}" of {self.where} holds {value!r}, which is no text; write words')
        return value


def read_records(path: str | Path) -> list[Record]:
    """All records of a file.

    Raises:
        UsageError: no such file, no UTF-8, empty, no JSON, cut short (the last whole record is named), or something in
            it is no object.
    """
    text = _read_text(Path(path))
    match text.lstrip()[:1]:
        case "":
            raise UsageError(f"{str(path)!r} is empty; give a file of facts")
        case "[":
            records = _from_array(text, str(path))
        case "{":
            records = _from_lines(text, str(path))
        case _:
            raise UsageError(f"{str(path)!r} is no JSON (it begins with {text.lstrip()[:20]!r}); give a file of facts")
    if not records:
        raise UsageError(f"{str(path)!r} holds an empty list; give a file of facts")
    return records


def _read_text(path: Path) -> str:
    with reading(path):
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise UsageError(f"the file of facts {str(path)!r} {what}; give the path of a JSON or JSON-lines file")
        content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")  # some editors put a byte-order mark in front
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is not UTF-8 text (byte {error.start}); convert it first") from error


def _from_array(text: str, path: str) -> list[Record]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken_array(text, path, error) from error
    return [_record(value, f"record {number}", path) for number, value in enumerate(values, start=1)]


def _broken_array(text: str, path: str, error: json.JSONDecodeError) -> UsageError:
    """What to say of an array that does not parse: where it ends being sound, and after which record."""
    decoder, whole = json.JSONDecoder(), []
    at = text.index("[") + 1
    try:
        while True:
            value, at = decoder.raw_decode(text, at + _blank(text[at : at + 1000]))
            whole.append(value)
    except json.JSONDecodeError:
        pass
    sound = f"its last whole record is number {len(whole)}{_named(whole[-1])}" if whole else "no record in it is whole"
    end = text.rstrip()
    if error.pos >= len(end) or not end.endswith("]") or error.msg.startswith("Unterminated string"):
        return UsageError(f"{path!r} is cut short in line {end.count(chr(10)) + 1}: {sound}; copy the file again")
    return UsageError(f"{path!r} is no JSON from line {error.lineno} on ({error.msg}): {sound}; mend it there")


def _blank(text: str) -> int:
    """How many characters of white space and commas the text begins with."""
    return len(text) - len(text.lstrip(" \t\r\n,"))


def _from_lines(text: str, path: str) -> list[Record]:
    records: list[Record] = []
    # Not splitlines(), which also breaks at characters that may stand inside a JSON text (U+2028 and others).
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            before = f"; the record before it is {records[-1].where.removesuffix(f' of {path!r}')}" if records else ""
            raise UsageError(
                f"line {number} of {path!r} is cut short or no JSON ({error.msg} at character {error.pos + 1}); "
                f"write one whole object on each line{before}"
            ) from error
        records.append(_record(value, f"line {number}", path))
    return records


def _record(value: Any, place: str, path: str) -> Record:
    if not isinstance(value, dict):
        raise UsageError(f"{place} of {path!r} is no JSON object; write {{...}} with the fields of a fact")
    return Record(f"{place}{_named(value)} of {path!r}", value)


def _named(value: Any) -> str:
    """The record's own identifier in brackets, where it has one."""
    if isinstance(value, dict):
        for key in _NAMES:
            if value.get(key) is not None:
                return f" ({key} {value[key]})"
    return ""
