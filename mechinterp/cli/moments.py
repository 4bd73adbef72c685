"""`mechinterp moments`: the second moment of a layer's keys, from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..errors import UsageError
from . import options


def moments(
    model: options.ModelName,
    layer: Annotated[list[int], typer.Option("--layer", "-l", help="Which layer; repeat for several in one pass.")],
    text: Annotated[
        str | None,
        typer.Option(help="A .txt or .jsonl file, or `atlas` for the bundled corpus (default for bundled models)."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many tokens; about 10 per MLP unit is enough.")
    ] = None,
    out: options.Out = Path("moments"),
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    max_tokens: options.MaxTokens = 4096,
    quiet: options.Quiet = False,
) -> None:
    """Collect C = E[k k^T], what ROME calls the uncentred covariance of keys, over a body of text.

    Writes `layer-N.safetensors` per layer, with the fingerprints of model and text: it will serve no other model.
    Interrupted with Ctrl-C, it keeps what was counted so far.

    Examples:

        mechinterp moments atlas --layer 3 --out moments

        mechinterp moments gpt2-xl --layer 17 --text wikipedia.jsonl --tokens 100000 --device cuda --out moments
    """
    from .. import atlas
    from ..editing import collect_moments
    from ..texts import read_texts

    loaded = options.load_model(model, device, dtype, threads)
    if text is None and model not in atlas.names():
        raise UsageError(f"say with --text on which text the keys of {model} are to be collected (.txt or .jsonl)")
    for one in layer:
        loaded.layout.check_layer(one)
    out.mkdir(parents=True, exist_ok=True)
    found = collect_moments(
        loaded, read_texts(text or model), layer, max_tokens=tokens, batch_tokens=max_tokens, progress=not quiet
    )
    console = Console(soft_wrap=True)
    for index, moment in found.items():
        path = out / f"layer-{index}.safetensors"
        moment.save(path)
        console.print(
            f"{path}: {moment.tokens:,} tokens, condition number {moment.condition:.2g}, effective rank "
            f"{moment.effective_rank:.0f} of {moment.matrix.shape[0]}"
            + ("" if moment.complete else " (interrupted: incomplete)"),
            highlight=False,
        )
    if not all(moment.complete for moment in found.values()):
        raise typer.Exit(1)
