"""What is printed never steers the terminal: control characters of a user's texts are shown, not obeyed."""

from __future__ import annotations

import re

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 but tab and line end: escape sequences, bells, carriage returns
    "\u2028\u2029"  # line and paragraph separators
    "\u202a-\u202e\u2066-\u2069"  # what turns the direction of the text that follows
    "\ud800-\udfff]"  # halves of characters, which no terminal can be sent
)

_LONGEST = 80


def visible(text: str) -> str:
    """A text as it can be printed: "\\x1b" in place of an escape, and so on; tabs and line ends stay."""
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def brief(value: object, longest: int = _LONGEST) -> str:
    """A value of a file for a sentence: its `repr`, printable and cut where it is long."""
    shown = visible(repr(value))
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"
