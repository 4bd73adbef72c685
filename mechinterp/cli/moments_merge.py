"""`mechinterp moments-merge`: one second moment from several, collected apart."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DamagedError
from ..runs.files import save_somewhere
from .moments import Repair, print_moment
from .options import named


def moments_merge(
    files: Annotated[list[Path], typer.Argument(help="Files of `mechinterp moments`, of one layer of one model.")],
    out: Annotated[Path, typer.Option("--out", "-o", parser=named, metavar="FILE", help="The file to write.")],
    repair: Repair = None,
) -> None:
    """Merge second moments that were collected from different texts, each weighed by its tokens.

    Examples:

        mechinterp moments-merge monday/layer-17.safetensors tuesday/layer-17.safetensors --out layer-17.safetensors
    """
    from ..editing import SecondMoment

    if out.exists():
        with suppress(DamagedError):
            SecondMoment.load(out)  # else it is no second moment, and not overwritten
    merged = SecondMoment.merge([SecondMoment.load(file) for file in files])
    merged = merged if repair is None else merged.repaired(repair)
    save_somewhere(out, merged.save, merged)
    print_moment(merged, out)
