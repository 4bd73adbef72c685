"""`mechinterp models`: which architectures are served, as the tests have found it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table as RichTable

from ..errors import UsageError
from .screen import Console


def models(
    name: Annotated[
        str | None, typer.Argument(help="Only architectures with this in their name, such as `llama`.")
    ] = None,
    cells: Annotated[
        bool, typer.Option("--cells", help="As Markdown, one column per component (`docs/architectures.md`).")
    ] = False,
) -> None:
    """List the architectures that are tested, and what is not served of each, with the reason.

    Every release tests small random models of them: corrupt, restore and sever at every component, the exact engine
    against full forwards, editing and export.  A model that is not listed can be tried: `mechinterp check` proves on
    the model itself what works.

    Examples:

        mechinterp models

        mechinterp models llama

        mechinterp models --cells

        mechinterp check path/to/model
    """
    from ..models.architectures import markdown, read_families, summary

    every = read_families()
    wanted = (name or "").lower()
    chosen = [one for one in every if wanted in one.name.lower() or wanted in one.architecture.lower()]
    if not chosen:
        raise UsageError(
            f"no tested architecture has {name!r} in its name (`mechinterp models` lists them); to try a model of "
            "another one, run `mechinterp check MODEL`"
        )
    if cells:
        typer.echo(markdown(chosen), nl=False)
        return
    (head, *rows), reasons = summary(chosen)
    grid = RichTable(title="corrupt, restore and sever are served everywhere but at", title_justify="left")
    for heading in head:
        grid.add_column(heading)
    for row in rows:
        grid.add_row(*row)
    console = Console()
    console.print(grid, soft_wrap=False)
    for number, reason in enumerate(reasons, 1):
        console.print(f"({number}) {reason}")
