"""`mechinterp moments` and `moments-merge`: the second moment of a layer's keys, from text, in one go or in parts."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DamagedError, MechinterpError, UsageError
from ..runs.files import save_somewhere, write_text
from ..runs.folder import OutFolder
from . import options
from .running import DEFAULT, Running, expanded
from .screen import Console

if TYPE_CHECKING:
    from ..editing import SecondMoment
    from ..models.model import Model

_CONVERGENCE = "convergence.csv"
CONVERGED = 0.99
"""The cosine that `--until converged` asks for."""

Repair = Annotated[
    str | None,
    typer.Option(
        help="What stands in for C where it is singular (dead ReLU units, too little text): `shrinkage`, "
        "`pseudo-inverse` or `ridge`."
    ),
]


# Eleven parameters: a command's are its options, of which nobody has to name more than three.
@expanded
def moments(
    model: options.ModelName,
    layer: Annotated[list[int], typer.Option("--layer", "-l", help="Which layer; repeat for several in one pass.")],
    text: Annotated[
        str | None,
        typer.Option(help="A .txt or .jsonl file, or `atlas` for the bundled corpus (default for bundled models)."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many tokens; 100 per MLP unit were enough on `atlas`.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help=f"`converged` (or a cosine; {CONVERGED}): stop once doubling the text leaves C^-1 k as it is, for "
            "nine in ten of 64 keys."
        ),
    ] = None,
    towering: Annotated[
        str | None,
        typer.Option(
            help="Keys longer than this multiple of the median are those of attention sinks and shortened to it; "
            "`off`: all count as they are, as in what is published.  [default: 5]",
        ),
    ] = None,
    repair: Repair = None,
    chat: options.Chat = False,
    skip_bad: options.SkipBad = False,
    finish: Annotated[
        bool,
        typer.Option("--finish", help="Read no more text: write the moments of what a killed collection had counted."),
    ] = False,
    out: options.Out = Path("moments"),
    max_tokens: options.MaxTokens = 4096,
    running: Running = DEFAULT,
) -> None:
    """Collect C = E[k k^T], what ROME calls the uncentred covariance of keys, over a body of text.

    Writes `layer-N.safetensors` per layer, with the fingerprints of model and text: it will serve no other model; and
    `convergence.csv`: how far C^-1 k was settled after how many tokens.  Interrupted with Ctrl-C, it keeps what was
    counted so far; interrupted or killed, the same command goes on where the sums were last written down, and with
    `--finish` it makes do with them.  Under
    torchrun the processes share the text.

    Examples:

        mechinterp moments atlas --layer 3 --out moments

        mechinterp moments atlas --layer 3 --out moments --finish

        mechinterp moments gpt2-xl --layer 17 --text wikipedia.jsonl --until converged --device cuda --out moments

        torchrun --nproc-per-node 8 -m mechinterp moments gpt2-xl --layer 17 --text wikipedia.jsonl --device cuda
    """
    from .. import atlas
    from ..editing import Convergence, collect_moments
    from ..editing.moments.collect import names_of
    from ..editing.moments.spectrum import REPAIRS
    from ..facts.chat import in_turns
    from ..reading.texts import check_texts, read_texts
    from ..runs.ranks import ranks

    if repair is not None and repair not in REPAIRS:
        raise UsageError(f"--repair is {repair!r}; choose one of {', '.join(REPAIRS)}")
    wanted = None if until is None else _cosine(until)
    multiple = _multiple(towering)
    if finish:
        options.check_layers(model, layer)
        _finish(running.load(model), layer, repair, out)
        return
    if text is None and model not in atlas.names():
        raise UsageError(f"say with --text on which text the keys of {model} are to be collected (.txt or .jsonl)")
    if text is not None and not text.strip():
        raise UsageError("--text is empty; give a .txt or .jsonl file, or leave it out for the text of a bundled model")
    options.check_layers(model, layer)
    check_texts(text or model, skip_bad=skip_bad)
    folder = OutFolder(out)
    folder.check(*names_of(layer), _CONVERGENCE)
    with ranks(running.device or "cpu") as me:
        loaded = running.load(model, me)
        for one in layer:
            loaded.layout.check_layer(one)
        texts = read_texts(text or model, skip_bad=skip_bad)
        texts = in_turns(loaded.tokenizer, texts) if chat else texts
        shown = not running.quiet and me.is_first
        log = Console(stderr=True)
        watch = Convergence(until=wanted, told=(lambda look: log.print(str(look))) if shown else None)
        found = collect_moments(
            loaded, texts, layer,
            max_tokens=tokens, batch_tokens=max_tokens, watch=watch, towering=multiple, out=out, progress=shown,
        )  # fmt: skip
        if me.is_first:
            folder.claim(_CONVERGENCE)
            write_text(folder / _CONVERGENCE, watch.table().to_csv(index=False))
            for index, moment in found.items():
                path = out / f"layer-{index}.safetensors"
                moment = moment if repair is None else moment.repaired(repair)
                if repair is not None:
                    moment.save(path)
                print_moment(moment, path)
    failed = ""
    if not all(moment.complete for moment in found.values()):
        failed = "interrupted: the files hold what was counted so far; the same command goes on from there"
    elif wanted is not None and not watch.settled:
        failed = (
            f"the text was used up before C^-1 k was settled to a cosine of {wanted:g}; the files are written, but "
            "give more text (or --tokens) for moments that more text would not change"
        )
    if failed and me.is_first:
        raise MechinterpError(failed)
    if failed:
        raise typer.Exit(1)


def _finish(model: Model, layers: list[int], repair: str | None, out: Path) -> None:
    """Of what a killed collection had counted."""
    from ..editing import finish_moments

    for index, moment in finish_moments(model, out, layers).items():
        path = out / f"layer-{index}.safetensors"
        if repair is not None:
            moment = moment.repaired(repair)
            moment.save(path)
        print_moment(moment, path)


def _cosine(until: str) -> float:
    try:
        cosine = CONVERGED if until == "converged" else float(until)
    except ValueError:
        cosine = math.nan
    if not 0 < cosine < 1:
        raise UsageError(f"--until is {until!r}; give `converged`, or a cosine between 0 and 1, such as 0.995")
    return cosine


def _multiple(towering: str | None) -> float | None:
    from ..editing.moments.towering import check_towering
    from ..patching.plain.sinks import TOWERING

    if towering in (None, "off"):
        return TOWERING if towering is None else None
    try:
        multiple = float(str(towering))
    except ValueError:
        raise UsageError(f"--towering is {towering!r}; give a multiple of the median such as 5, or `off`") from None
    return check_towering(multiple)


def print_moment(moment: SecondMoment, path: Path) -> None:
    """One line on a moment that was written, and what to do where it cannot be solved."""
    console = Console()
    console.print(
        f"{path}: {moment.tokens:,} tokens in {moment.documents:,} texts, condition number {moment.condition:.2g}, "
        f"effective rank {moment.effective_rank:.0f} of {moment.matrix.shape[0]}"
        + (f"; {moment.sinks}" if moment.sinks else "")
        + (f", repaired by {moment.repair.kind} {moment.repair.strength:.2g}" if moment.repair else "")
        + ("" if moment.complete else " (interrupted: incomplete)"),
    )
    if moment.is_singular:
        console.print(
            f"singular to working precision ({moment.dead_units} units never fired): edits will refuse it; give more "
            "text, or name a --repair",
        )


def moments_merge(
    files: Annotated[list[Path], typer.Argument(help="Files of `mechinterp moments`, of one layer of one model.")],
    out: Annotated[Path, typer.Option("--out", "-o", parser=options.named, metavar="FILE", help="The file to write.")],
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
