"""`mechinterp moments-merge`: one second moment from several, collected apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def moments_merge(
    files: Annotated[list[Path], typer.Argument(help="Files of `mechinterp moments`, of one layer of one model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
) -> None:
    """Merge second moments that were collected from different texts, each weighed by its tokens.

    Examples:

        mechinterp moments-merge monday/layer-17.safetensors tuesday/layer-17.safetensors --out layer-17.safetensors
    """
    from ..editing import SecondMoment

    merged = SecondMoment.merge([SecondMoment.load(file) for file in files])
    merged.save(out)
    Console(soft_wrap=True).print(
        f"{out}: {merged.tokens:,} tokens in {merged.documents:,} texts, condition number {merged.condition:.2g}, "
        f"effective rank {merged.effective_rank:.0f} of {merged.matrix.shape[0]}"
        + ("" if merged.complete else " (a part was interrupted: incomplete)"),
        highlight=False,
    )
