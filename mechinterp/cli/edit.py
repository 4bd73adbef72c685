"""`mechinterp edit`: change one fact or many, and say what happened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import MechinterpError, UsageError
from ..runs.progress import progress_bar
from . import options
from .edit_report import print_report
from .edit_words import check_method
from .layer_moments import check_moments, layer_moments
from .screen import Console

if TYPE_CHECKING:
    from ..editing import Editor, EditRequest
    from ..editing.value.hparams import Hparams
    from ..models.model import Model


def edit(
    model: options.ModelName,
    prompt: Annotated[str | None, typer.Option(help="A template with {} where the subject goes.")] = None,
    subject: Annotated[str | None, typer.Option(help="The subject.")] = None,
    target: Annotated[str | None, typer.Option(help="The new object.")] = None,
    answer: Annotated[str | None, typer.Option(help="The true object, to see it fall.")] = None,
    facts: Annotated[
        str | None, typer.Option(help="Many facts instead: a bundled model's or a file's, each with its target_new.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Edit a seeded sample of the facts.")] = None,
    editor: Annotated[
        str | None, typer.Option(help="`memit`, `alphaedit`, `emmet`, `ft-l`, ...; default: ROME as the preset has it.")
    ] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="Which MLP (repeat for several); default: the published, or bundled best.")
    ] = None,
    moments: Annotated[
        list[Path] | None, typer.Option(help="Files of `mechinterp moments`, or folders; bundled models need none.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="`default`, or the editor's others: `code` (published implementation), `paper`, ...")
    ] = "default",
    kl: Annotated[bool, typer.Option("--kl/--no-kl", help="The term against essence drift.")] = True,
    to_hf: Annotated[Path | None, typer.Option(help="Also write the edited model as a Hugging Face folder.")] = None,
    require_success: Annotated[
        bool, typer.Option("--require-success", help="Exit with 1 if a target is not said.")
    ] = False,
    allow_disabling: Annotated[
        bool, typer.Option("--allow-disabling", help="Keep an edit that endangers the model.")
    ] = False,
    allow_conflicts: Annotated[
        bool, typer.Option("--allow-conflicts", help="Accept facts that contradict each other.")
    ] = False,
    skip_bad: options.SkipBad = False,
    seed: options.Seed = 0,
    out: options.Out = Path("edit"),
    device: options.Device = None,
    dtype: options.Dtype = None,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
) -> None:
    """Make a model complete prompts with other objects: one fact by ROME (Meng et al. 2022), or many by any editor.

    Writes `edit.safetensors` (a few KB per fact; apply it with `Edit.load(...).on(model)`) and `report.json`. An editor
    that writes one fact at a time takes many one after the other.

    Examples:

        mechinterp edit atlas --prompt "{} was born in" --subject "Marta Halberg" --target Tarsk

        mechinterp edit atlas --editor memit --facts atlas --limit 50 --out fifty

        mechinterp edit gpt2-xl --prompt "{} is in downtown" --subject "The Space Needle" --target Paris
            --moments moments/layer-17.safetensors --out needle
    """
    from ..editing import EditSequence

    one = (prompt, subject, target)
    if (facts is None) == (one == (None, None, None)) or (facts is None and None in one):
        raise UsageError("say what to edit: --prompt, --subject and --target together, or --facts")
    if facts is not None and answer is not None:
        raise UsageError("--answer belongs to --prompt; the facts of --facts bring their own, so leave it out")
    if facts is None and (limit is not None or skip_bad):
        raise UsageError(f"{'--skip-bad' if limit is None else '--limit'} belongs to --facts; leave it out")
    check_method(editor, preset, kl=kl)
    options.check_layers(model, layer or ())
    check_moments(moments or ())
    if facts is None:
        given = [_asked(prompt or "", subject or "", target or "", answer)]
    else:
        given = _requests(facts, limit, seed, skip_bad=skip_bad)
    loaded = options.load_model(model, device, dtype, threads)
    requests = [_request(loaded, prompt or "", subject or "", target or "", answer)] if facts is None else given
    method, hparams = _method(loaded, editor, preset, kl=kl)
    layers = _layers(loaded, method, layer, moments or [])
    found = layer_moments(loaded, layers or (), moments or (), quiet=quiet) if method.moments else None
    out.mkdir(parents=True, exist_ok=True)
    sequence = EditSequence(
        loaded, method, layers, moments=found, hparams=hparams, seed=seed, allow_disabling=allow_disabling,
        allow_conflicts=allow_conflicts,
    )  # fmt: skip
    refused: list[str] = []
    steps = [requests] if method.batch else [[request] for request in requests]
    with progress_bar("edits", len(steps), shown=not quiet and len(steps) > 1) as advance:
        for step in steps:
            try:
                sequence.add(step, progress=not quiet and len(steps) == 1)
            except UsageError:
                raise
            except MechinterpError as error:
                refused.append(str(error))
            advance(1)
    if not len(sequence):
        raise MechinterpError(refused[0])
    made = sequence.edit
    made.save(out / "edit.safetensors")
    reports = [step.report for step in sequence.steps]
    plain = [asdict(report) for report in reports]
    (out / "report.json").write_text(json.dumps(plain[0] if len(plain) == 1 else plain, indent=1), encoding="utf-8")
    failed = [report.reason for report in reports if not report.success] + refused
    console = Console(soft_wrap=True)
    if len(steps) == 1:
        print_report(console, made)
    else:
        for reason in refused:
            console.print(f"left out: {reason}", highlight=False, markup=False)
        said = f"{len(steps) - len(failed)} of {len(steps)} edits by {method.name} succeeded when they were made"
        console.print(said, highlight=False)
    typer.echo(f"written to {out}: edit.safetensors, report.json")
    if require_success and failed:
        raise MechinterpError(f"{len(failed)} of {len(steps)} edits failed: {failed[0]}")
    if to_hf is not None:
        made.to_hf(loaded, to_hf)
        typer.echo(f"edited model written to {to_hf}")


def _asked(prompt: str, subject: str, target: str, answer: str | None) -> EditRequest:
    from ..editing import EditRequest
    from ..facts.prompts import Prompt

    return EditRequest(Prompt(prompt, subject, answer), target)


def _request(model: Model, prompt: str, subject: str, target: str, answer: str | None) -> EditRequest:
    from ..editing import EditRequest
    from ..facts.prompts import Prompt

    asked = Prompt(prompt, subject, answer)
    model.tokenise(asked)
    model.answer_ids(asked.text, target)
    return EditRequest(asked, target)


def _requests(source: str, limit: int | None, seed: int, *, skip_bad: bool) -> list[EditRequest]:
    from ..editing import EditRequest

    given = options.choose_facts(source, None, None, seed, skip_bad=skip_bad)
    found = options.with_objects(given, source, ("target_new",))
    return [EditRequest.of(fact) for fact in options.sample(found, limit, seed)]


def _method(model: Model, name: str | None, preset: str, *, kl: bool) -> tuple[Editor, Hparams]:
    """The editor and its hyper-parameters; without a name ROME, in the variant of the preset."""
    from ..editing import editor as named
    from ..editing.editors.rome_hparams import resolve
    from ..editing.value.hparams import ValueHparams

    method = named(resolve(preset, None, None).variant if name is None else name)
    hparams = method.chosen(preset, None, model)
    if not kl:
        if not isinstance(hparams, ValueHparams):
            raise UsageError(f"{method.name} has no term against essence drift; leave --no-kl out")
        hparams = hparams.with_(kl_factor=0.0)
    return method, hparams


def _layers(model: Model, method: Editor, given: Sequence[int] | None, moments: Sequence[Path]) -> list[int] | None:
    """The layers given; else, for a method that edits one, that of the only second moment; else the default ones."""
    from ..editing import SecondMoment
    from ..editing.editors.families import default_layers

    moment = SecondMoment.load(moments[0], model) if len(moments) == 1 and moments[0].is_file() else None
    if given:
        layers = [model.layout.check_layer(layer) for layer in given]
        if moment is not None and moment.layer not in layers:
            raise UsageError(
                f"{moments[0]} is the second moment of layer {moment.layer}; the edit is to be at layer "
                f"{', '.join(map(str, layers))}"
            )
        return layers
    if not method.layers:
        return None
    if moment is not None and method.layers == "rome":
        return [moment.layer]
    return list(default_layers(model, method.layers))
