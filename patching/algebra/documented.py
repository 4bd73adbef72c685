"""Words of the algebra that `help()` explains: values that carry a docstring of their own."""

from __future__ import annotations

from typing import TypeVar

from ...models.layout import hook_template

Word = TypeVar("Word")


def documented(word: Word, text: str) -> Word:
    """The same value, of which `help(value)` shows this text; equality and copies know nothing of it."""
    object.__setattr__(word, "__doc__", text)
    return word


def component_text(what: str, name: str, shape: str) -> str:
    """What a component is, its shape, and the hook point where it is read and written."""
    return f"{what}\n\n[{shape}], at TransformerLens' {hook_template(name)}.\n"
