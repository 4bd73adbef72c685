"""`mechinterp edit`: change one fact by ROME, and say what happened."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..errors import MechinterpError, UsageError
from . import options

if TYPE_CHECKING:
    from ..editing import Edit, SecondMoment
    from ..models import Model

MOMENT_TOKENS = 60_000


def edit(
    model: options.ModelName,
    prompt: Annotated[str, typer.Option(help="A template with {} where the subject goes.")],
    subject: Annotated[str, typer.Option(help="The subject.")],
    target: Annotated[str, typer.Option(help="The new object.")],
    answer: Annotated[str | None, typer.Option(help="The true object, to see it fall.")] = None,
    layer: Annotated[
        int | None, typer.Option(help="Which MLP; default: the published one, or the bundled best.")
    ] = None,
    moments: Annotated[
        Path | None, typer.Option(help="A file of `mechinterp moments`; collected on the fly for bundled models.")
    ] = None,
    preset: Annotated[str, typer.Option(help="`default`, `code` (published implementation) or `paper`.")] = "default",
    kl: Annotated[bool, typer.Option("--kl/--no-kl", help="The term against essence drift.")] = True,
    to_hf: Annotated[Path | None, typer.Option(help="Also write the edited model as a Hugging Face folder.")] = None,
    require_success: Annotated[bool, typer.Option(help="Exit with 1 if the target is not said.")] = False,
    allow_disabling: Annotated[bool, typer.Option(help="Keep an edit that endangers the model.")] = False,
    seed: options.Seed = 0,
    out: options.Out = Path("edit"),
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
) -> None:
    """Make a model complete a prompt with another object, by ROME (Meng et al. 2022).

    Writes `edit.safetensors` (a few KB; apply it with `Edit.load(...).on(model)`) and `report.json`.

    Examples:

        mechinterp edit atlas --prompt "{} was born in" --subject "Marta Halberg" --target Tarsk

        mechinterp edit gpt2-xl --prompt "{} is in downtown" --subject "The Space Needle" --target Paris
            --moments moments/layer-17.safetensors --out needle
    """
    from ..editing import rome
    from ..prompts import Prompt

    loaded = options.load_model(model, device, dtype, threads)
    asked = Prompt(prompt, subject, answer)
    loaded.tokenise(asked)
    loaded.answer_ids(asked.text, target)
    out.mkdir(parents=True, exist_ok=True)
    moment = find_moments(loaded, layer, moments, quiet=quiet)
    made = rome(
        loaded, asked, moment.layer, moments=moment, target=target, preset=preset, kl=kl, seed=seed,
        require_success=require_success, allow_disabling=allow_disabling, progress=not quiet,
    )  # fmt: skip
    made.save(out / "edit.safetensors")
    (out / "report.json").write_text(json.dumps(asdict(made.report), indent=1), encoding="utf-8")
    print_report(Console(soft_wrap=True), made)
    typer.echo(f"written to {out}: edit.safetensors, report.json")
    if to_hf is not None:
        made.to_hf(loaded, to_hf)
        typer.echo(f"edited model written to {to_hf}")


def find_moments(model: Model, layer: int | None, path: Path | None, *, quiet: bool) -> SecondMoment:
    """The second moment to edit with: the file given, or one collected now from the bundled corpus."""
    from .. import atlas
    from ..editing import SecondMoment
    from ..editing.families import default_layers

    if path is not None:
        moment = SecondMoment.load(path)
        if layer is not None and model.layout.check_layer(layer) != moment.layer:
            raise UsageError(f"{path} is the second moment of layer {moment.layer}; the edit is to be at layer {layer}")
        return moment
    if model.name not in atlas.names():
        raise UsageError(
            f"editing {model.name} needs the second moment of its keys: run `mechinterp moments {model.name} "
            "--layer N --text FILE` and pass the file with --moments"
        )
    index = default_layers(model, "rome")[0] if layer is None else layer
    texts = atlas.corpus(name=model.name)
    moment = SecondMoment.collect(model, texts, index, max_tokens=MOMENT_TOKENS, progress=not quiet)
    if not moment.complete:
        raise MechinterpError("interrupted while keys were collected; nothing was edited")
    return moment


def print_report(console: Console, made: Edit) -> None:
    """What an edit did, in the order in which one asks."""
    from ..editing import BatchReport

    report, request = made.report, made.provenance.request
    if isinstance(report, BatchReport) or request is None:
        _print_batch(console, made)
        return
    verdict = "success" if report.success else f"not a success: {report.reason}"
    lines = [
        f"{request.prompt.text!r} -> {request.target!r}, layer {', '.join(map(str, made.layers))}: {verdict}",
        f"P(target) {report.target_before:.4f} -> {report.target_after:.4f}"
        + (
            f", P(answer) {report.answer_before:.4f} -> {report.answer_after:.4f}"
            if report.answer_before is not None
            else ""
        ),
        f"loss {report.losses[0].total:.3f} -> {report.losses[-1].total:.3f} in {report.steps} steps"
        + (f", delta clamped {report.clamped_steps} times" if report.clamped_steps else ""),
        f"|dW|/|W| {report.norm_ratio:.4f}; error at k* {report.error_at_mean_key:.3g}, at the bare prompt's key "
        f"{report.error_at_bare_key:.3g}",
    ]
    for drift in report.essence:
        lines.append(f"essence drift after {drift.text!r}: {drift.applied:.3f} nats")
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _print_batch(console: Console, made: Edit) -> None:
    """What an edit by another editor than ROME did."""
    from ..editing import BatchReport

    report = made.report
    assert isinstance(report, BatchReport)
    succeeded = sum(outcome.success for outcome in report.outcomes)
    lines = [f"{made!r}: {succeeded} of {len(report.outcomes)} requests succeeded in {report.seconds:.1f} s"]
    lines += [report.reason] if report.reason else []
    for change in report.layers:
        text = "" if change.disturbance is None else f"; {change.disturbance:.3f} of its output on ordinary text"
        lines.append(f"layer {change.layer}: |dW|/|W| {change.norm_ratio:.4f}{text}")
    for line in (*lines, *report.warnings):
        console.print(line, highlight=False, markup=False)
