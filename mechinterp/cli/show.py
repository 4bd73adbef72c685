"""`mechinterp show`: what is in a file, or what a model can serve."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import MechinterpError, UsageError
from . import options
from .running import Running
from .screen import Console


def show(
    what: Annotated[
        str,
        typer.Argument(
            callback=options.model_name,
            help="A trace (.parquet), an edit or moments file, a folder with one of them, or a model.",
        ),
    ],
    prompt: Annotated[
        str | None, typer.Option(help="Of a trace: which prompt to draw (its name in the table).")
    ] = None,
    figure: options.Figure = None,
    device: options.Device = None,
) -> None:
    """Describe a trace, an edit, a second moment, or a model and the components it can serve.

    Examples:

        mechinterp show trace --figure aie.png

        mechinterp show trace/table.parquet --prompt "Marta Halberg was born in" --figure halberg.pdf

        mechinterp show edit/edit.safetensors

        mechinterp show atlas
    """
    console = Console()
    files = _files(what)
    traces = [file for file in files if file.suffix == ".parquet"]
    for option, given, fits, of in (
        ("--prompt", prompt, traces, "a trace"),
        ("--figure", figure, traces, "a trace"),
        ("--device", device, not files, "a model"),
    ):
        if given is not None and not fits:
            raise UsageError(f"{option} is of {of}, and {what!r} is none; leave it out")
    for file in files:
        if file.suffix == ".parquet":
            _show_trace(console, file, prompt, figure)
        elif file.suffix == ".md":
            console.print(file.read_text(encoding="utf-8"), soft_wrap=True)
        else:
            _show_tensors(console, file)
    if not files:
        _show_model(console, what, device)


def _files(what: str) -> list[Path]:
    """The files that are to be described: the one named, or those that a command left in the folder; none of a model.

    Raises:
        UsageError: the folder holds a trace that is not finished.
    """
    from .. import atlas

    path = Path(what)
    if path.suffix in (".parquet", ".safetensors"):
        return [path]
    if what in atlas.names() or (path / "config.json").is_file() or not path.is_dir():
        return []
    if (path / "table.parquet").is_file():
        return [path / "table.parquet"]
    if (path / "manifest.json").is_file():
        raise UsageError(
            f"{what!r} holds a trace that is not finished: there is no table.parquet yet; start the same trace again "
            "to go on with it"
        )
    if (path / "table.md").is_file():
        return [path / "table.md"]
    return [*sorted(path.glob("edit.safetensors")), *sorted(path.glob("layer-*.safetensors"))]


def _show_trace(console: Console, path: Path, prompt: str | None, figure: Path | None) -> None:
    from .. import analysis
    from ..analysis.plots.style import save_figure
    from ..patching import Table
    from .printing import print_effects

    table = Table.load(path)
    if prompt is not None and prompt not in table.prompts:
        raise UsageError(f"there is no prompt {prompt!r} in {path}; it has, for example, {table.prompts[0]!r}")
    for name in (
        "model",
        "fingerprint",
        "prompts",
        "draws",
        "seed",
        "noise_level",
        "window",
        "reference",
        "severed_within_draw",
        "checked_cells",
        "largest_difference",
        "plain",
        "warnings",
        "versions",
    ):
        console.print(f"{name}: {table.meta.get(name)}")
    if len(table.prompts) > 1:
        print_effects(console, analysis.average_indirect_effects(table), analysis.average_total_effect(table))
    if figure is not None:
        drawn = (
            analysis.plot_aie(table)
            if prompt is None and len(table.prompts) > 1
            else analysis.plot_prompt(table, prompt)
        )
        save_figure(drawn, figure)
        console.print(f"written: {figure}")


def _show_tensors(console: Console, path: Path) -> None:
    from ..editing import Edit, SecondMoment
    from .printing import print_report

    try:
        edit = Edit.load(path)
    except UsageError as not_an_edit:
        try:
            moment = SecondMoment.load(path)
        except UsageError:
            raise not_an_edit from None
        console.print(
            f"second moment of layer {moment.layer} of {moment.model_name} ({moment.model}): {moment.tokens:,} tokens "
            f"of {moment.documents:,} texts, condition number {moment.condition:.2g}, effective rank "
            f"{moment.effective_rank:.0f} of {moment.matrix.shape[0]}, {moment.dead_units} dead units"
            + (f"; {moment.sinks}" if moment.sinks else ""),
        )
        return
    try:
        provenance = edit.provenance
    except MechinterpError:  # several edits in one: there is no single provenance to tell
        console.print(repr(edit))
        return
    if provenance.report is not None:
        print_report(console, edit)
    for name, value in asdict(provenance).items():
        if name not in ("report", "requests"):
            console.print(f"{name}: {value}")


def _show_model(console: Console, name: str, device: str | None) -> None:
    from .printing import print_components

    model = Running(device).load(name)
    console.print(repr(model))
    console.print(f"fingerprint: {model.fingerprint()}")
    console.print(f"tokenizer: {type(model.tokenizer).__name__}, adds BOS: {model.adds_bos}")
    print_components(console, model)
