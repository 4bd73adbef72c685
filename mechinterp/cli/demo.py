"""`mechinterp demo`: the whole of it in a few minutes, on a laptop and without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def demo(
    facts: Annotated[int, typer.Option(min=2, help="How many facts to trace on each of the two models.")] = 40,
    edits: Annotated[int, typer.Option(min=1, help="How many facts to edit, one at a time.")] = 20,
    seed: options.Seed = 0,
    out: options.Out = Path("demo"),
    threads: options.Threads = None,
    quiet: options.Quiet = False,
) -> None:
    """See where a small model keeps its facts, and change one of them.

    Traces facts of the bundled world on two models that know them equally well, one with an early site and one
    without; edits one fact on the first and shows what else it changed; edits more of them, each undone, and reports
    the scores with intervals. Figures and tables go into the folder given with `--out`.

    Example:

        mechinterp demo --out demo
    """
    from .demonstration import run_demo

    options.set_threads(threads)
    run_demo(out, facts=facts, edits=edits, seed=seed, progress=not quiet)
