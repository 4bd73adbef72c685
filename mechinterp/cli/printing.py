"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from ..facts.spans import FIRST_SUBJECT, LAST, LAST_SUBJECT, MIDDLE_SUBJECT

if TYPE_CHECKING:
    from ..models.model import Model

_SHOWN = (FIRST_SUBJECT, MIDDLE_SUBJECT, LAST_SUBJECT, LAST)


def print_effects(console: Console, effects: pd.DataFrame, totals: pd.DataFrame) -> None:
    """AIE x 100 by role (the four that matter), component and layer, and the total effect."""
    n = int(totals["n_prompts"].max())
    te = totals.loc["total_effect"]
    console.print(
        f"{n} prompts: clean {totals.loc['clean', 'estimate']:.3f}, "
        f"corrupted {totals.loc['corrupted', 'estimate']:.3f}, "
        f"total effect {te['estimate']:.3f} \\[{te['low']:.3f}, {te['high']:.3f}] (probability of the answer)",
        highlight=False,
    )
    layers = sorted(effects["layer"].unique())
    grid = RichTable(title="average indirect effect x 100, by layer (centre of the window)", title_justify="left")
    for heading in ("token", "restored", "severed"):
        grid.add_column(heading)
    for layer in layers:
        grid.add_column(str(layer), justify="right")
    for role in _SHOWN:
        of_role = effects[effects["role"] == role]
        for (component, severed), line in of_role.groupby(["component", "severed"], sort=False):
            by_layer = line.set_index("layer")["estimate"]
            cells = [f"{100 * by_layer[layer]:.1f}" if layer in by_layer else "" for layer in layers]
            grid.add_row(role, str(component), "" if severed == "none" else str(severed), *cells)
        grid.add_section()
    console.print(grid)


def print_table(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A small table, numbers to the right."""
    grid = RichTable(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        grid.add_column(heading, justify="left" if index == 0 else "right")
    for row in rows:
        grid.add_row(*map(escape, row))
    console.print(grid)


def print_components(console: Console, model: Model) -> None:
    """The components of a model that are served, and why the others are not."""
    from ..models.layout import COMPONENTS

    for component in COMPONENTS:
        refused = model.layout.refused.get(component)
        console.print(f"  {component}: {'served' if refused is None else refused}", highlight=False, markup=False)
