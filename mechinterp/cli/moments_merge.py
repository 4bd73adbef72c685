"""`mechinterp moments-merge`: one second moment from several, collected apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .moments import Repair, print_moment


def moments_merge(
    files: Annotated[list[Path], typer.Argument(help="Files of `mechinterp moments`, of one layer of one model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    repair: Repair = None,
) -> None:
    """Merge second moments that were collected from different texts, each weighed by its tokens.

    Examples:

        mechinterp moments-merge monday/layer-17.safetensors tuesday/layer-17.safetensors --out layer-17.safetensors
    """
    from ..editing import SecondMoment

    merged = SecondMoment.merge([SecondMoment.load(file) for file in files])
    merged = merged if repair is None else merged.repaired(repair)
    merged.save(out)
    print_moment(merged, out)
