"""The one place where a command prints: nothing is taken for markup, and nothing that a file holds steers the terminal.

Paths, facts, prompts and names are printed as they are, brackets and all; control characters are shown ("\\x1b").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ..runs.terminal import visible


class Console(RichConsole):
    """A console without markup and highlighting, whose texts are made visible before they are measured and printed.

    On a terminal its lines end between words; in a pipe or a file they stay whole, so that they can be searched.
    """

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = True, **options: Any) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, markup=False, highlight=False, emoji=False, **options)
        self.soft_wrap = soft_wrap and not self.is_terminal

    def render_str(self, text: str, **options: Any) -> Text:
        """As of Rich; what a text holds is shown, not obeyed."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As of Rich; whatever came past `render_str` (a `Text` with a style) is made visible here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def leave_word(sentence: str, kind: str = "error") -> None:
    """Say on standard error what went wrong."""
    Console(stderr=True).print(Text.assemble((f"{kind}:", "bold red"), f" {sentence}"))
