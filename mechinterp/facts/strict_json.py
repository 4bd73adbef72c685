"""JSON as it is defined, and nothing that Python's reader lets through or stumbles over.

NaN and Infinity, numbers beyond float64 or of hundreds of digits, a field that stands twice in one object (of which
Python keeps the last in silence), halves of characters, objects nested without end.  The place of such a thing is taken
by a `Bad` value, so that the other records of the file are read all the same and every bad one can be named.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ..runs.terminal import brief

DIGITS = 40
"""Of a whole number; no identifier has more."""


@dataclass(frozen=True)
class Bad:
    """Stands where something is that JSON does not allow, and says what: "holds NaN, which is no JSON"."""

    fault: str


def fault_of(value: Any) -> str:
    """What is wrong with a value that `DECODER` gave, at any depth; an empty string where nothing is."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Bad):
            return one.fault
        if isinstance(one, dict):
            left += [*one.values(), *one]
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str) and not one.isascii():
            try:
                one.encode()
            except UnicodeEncodeError:
                return f"holds half a character (in {brief(one, 40)}), a surrogate without its other half"
    return ""


def end_of(text: str, start: int) -> int:
    """Where the object or list that begins at `start` ends, by its brackets alone: for one too deep to be decoded.

    Returns:
        the place after its last bracket; the length of the text, where that is missing.
    """
    depth, quoted, at = 0, False, start
    while at < len(text):
        char = text[at]
        if quoted:
            at += char == "\\"  # and what it escapes
            quoted = char != '"'
        elif char == '"':
            quoted = True
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return len(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Bad:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        return Bad(f"has the field {brief(twice, 40)} twice")
    return found


def _constant(name: str) -> Bad:
    return Bad(f"holds {name}, which is no JSON")


def _whole_number(digits: str) -> int | Bad:
    return int(digits) if len(digits) <= DIGITS else Bad(f"holds a number of {len(digits)} digits")


def _number(digits: str) -> float | Bad:
    value = float(digits)
    return Bad(f"holds the number {brief(digits, 40)[1:-1]}, which is too large") if math.isinf(value) else value


DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_whole_number, parse_float=_number
)
"""Puts `Bad` values where they belong; raises `JSONDecodeError`, or `RecursionError`."""
