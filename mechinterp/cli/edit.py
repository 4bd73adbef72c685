"""`mechinterp edit`: change one fact or many, and say what happened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MechinterpError, UsageError
from ..runs.files import save_somewhere, write_text
from ..runs.folder import OutFolder
from ..runs.progress import progress_bar
from . import choosing, options
from .layer_moments import check_moments, layer_moments
from .running import DEFAULT, Running, expanded, kept
from .screen import Console
from .train import trained_for
from .words import check_method

if TYPE_CHECKING:
    from ..editing import Editor, EditRequest, EditSequence
    from ..editing.hyperparameters import Hparams
    from ..models.model import Model

_EDIT, _REPORT, _SEQUENCE = _FILES = ("edit.safetensors", "report.json", "sequence.safetensors")


@expanded
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
    editor: Annotated[str, typer.Option(help="`rome`, `r-rome`, `memit`, `alphaedit`, `emmet`, `ft-l`, ...")] = "rome",
    layer: Annotated[
        list[int] | None, typer.Option(help="Which MLP (repeat for several); default: the published, or bundled best.")
    ] = None,
    moments: Annotated[
        list[Path] | None, typer.Option(help="Files of `mechinterp moments`, or folders; bundled models need none.")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(help="`default`, another of the editor's (`code`: as published), or a file of EasyEdit or rome."),
    ] = "default",
    trained: Annotated[
        Path | None, typer.Option(help="Folder of `mechinterp train-editor`, for an editor that has a network.")
    ] = None,
    kl: Annotated[bool, typer.Option("--kl/--no-kl", help="The term against essence drift.")] = True,
    to_hf: Annotated[
        Path | None,
        typer.Option(
            parser=options.named, metavar="FOLDER", help="Also write the edited model as a Hugging Face folder."
        ),
    ] = None,
    require_success: Annotated[
        bool, typer.Option("--require-success", help="Exit with 1 if a target is not said.")
    ] = False,
    allow_disabling: Annotated[
        bool, typer.Option("--allow-disabling", help="Keep an edit that endangers the model.")
    ] = False,
    allow_conflicts: Annotated[
        bool, typer.Option("--allow-conflicts", help="Accept facts that contradict each other.")
    ] = False,
    chat: options.Chat = False,
    skip_bad: options.SkipBad = False,
    seed: options.Seed = 0,
    out: options.Out = Path("edit"),
    running: Running = DEFAULT,
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
    from ..editing import EditRequest, EditSequence
    from ..editing import editor as named
    from ..editing.edits.export import check_export

    one = (prompt, subject, target)
    if (facts is None) == (one == (None, None, None)) or (facts is None and None in one):
        raise UsageError("say what to edit: --prompt, --subject and --target together, or --facts")
    if facts is not None and answer is not None:
        raise UsageError("--answer belongs to --prompt; the facts of --facts bring their own, so leave it out")
    if facts is None and (limit is not None or skip_bad):
        raise UsageError(f"{'--skip-bad' if limit is None else '--limit'} belongs to --facts; leave it out")
    check_method(editor, preset, kl=kl)
    network = trained_for(editor, trained, preset)
    options.check_layers(model, layer or ())
    check_moments(moments or ())
    if facts is None:
        given = [_asked(prompt or "", subject or "", target or "", answer)]
    else:
        given = _requests(facts, limit, seed, skip_bad=skip_bad)
    folder = OutFolder(out)
    folder.check(*_FILES)
    if to_hf is not None and to_hf.absolute() == out.absolute():
        raise UsageError(f"--out and --to-hf are both {str(out)!r}; give two folders")
    if to_hf is not None and (to_hf.parent != out or out.exists()):  # --out is made when it is needed
        check_export(to_hf)
    loaded = running.load(model)
    if facts is None:
        requests = [_request(loaded, prompt or "", subject or "", target or "", answer, chat=chat)]
    else:
        requests = [EditRequest(loaded.chat(one.prompt), one.target) for one in given] if chat else given
    method, hparams = _method(loaded, network or named(editor), preset, kl=kl)
    layers = _layers(loaded, method, hparams, layer, moments or [])
    found = layer_moments(loaded, layers, moments or (), quiet=running.quiet) if method.needs_moments else None
    folder.claim(*_FILES)
    sequence = EditSequence(
        loaded, method, layers, moments=found, hparams=hparams, seed=seed, allow_disabling=allow_disabling,
        allow_conflicts=allow_conflicts,
    )  # fmt: skip
    refused: list[str] = []
    steps = [requests] if method.batch else [[request] for request in requests]
    with progress_bar("edits", len(steps), shown=not running.quiet and len(steps) > 1) as advance:
        for step in steps:
            try:
                sequence.add(step, progress=not running.quiet and len(steps) == 1)
            except UsageError:
                raise
            except MechinterpError as error:
                refused.append(str(error))
            except KeyboardInterrupt:
                _keep(sequence, len(steps), folder)
                raise
            advance(1)
    if not len(sequence):
        raise MechinterpError(refused[0])
    made = sequence.edit
    save_somewhere(folder / _EDIT, made.save, made)
    reports = [step.report for step in sequence.steps]
    plain = [asdict(report) for report in reports]
    with kept(f"the edit is in {folder / _EDIT}"):
        write_text(folder / _REPORT, json.dumps(plain[0] if len(plain) == 1 else plain, indent=1))
    failed = [report.reason for report in reports if not report.success] + refused
    from .printing import before_and_after, outcomes_of, print_report

    console = Console()
    if len(steps) == 1:
        print_report(console, made)
    else:
        for reason in refused:
            console.print(f"left out: {reason}")
        said = f"{len(steps) - len(failed)} of {len(steps)} edits by {method.name} succeeded when they were made"
        console.print(said)
        for line in before_and_after(outcomes_of(reports), "before each"):
            console.print(line)
    typer.echo(f"written to {out}: {_EDIT}, {_REPORT}")
    if require_success and failed:
        raise MechinterpError(f"{len(failed)} of {len(steps)} edits failed: {failed[0]}")
    if to_hf is not None:
        with kept(f"the edit is in {folder / _EDIT}"):
            made.to_hf(loaded, to_hf)
        typer.echo(f"edited model written to {to_hf}")


def _keep(sequence: EditSequence, steps: int, folder: OutFolder) -> None:
    """What an interrupted sequence has made so far, and its memory."""
    if len(sequence):
        save_somewhere(folder / _SEQUENCE, sequence.save, sequence)
        raise MechinterpError(
            f"interrupted: {len(sequence)} of {steps} edits are kept in {str(folder / _SEQUENCE)!r}; "
            "EditSequence.load(...) goes on with them, and its .edit is all of them"
        ) from None


def _asked(prompt: str, subject: str, target: str, answer: str | None) -> EditRequest:
    from ..editing import EditRequest
    from ..facts.prompts import Prompt

    return EditRequest(Prompt(prompt, subject, answer), target)


def _request(model: Model, prompt: str, subject: str, target: str, answer: str | None, *, chat: bool) -> EditRequest:
    from ..editing import EditRequest
    from ..facts.prompts import Prompt

    asked = model.chat(Prompt(prompt, subject, answer)) if chat else Prompt(prompt, subject, answer)
    model.tokenise(asked)
    model.answer_ids(asked, target)
    return EditRequest(asked, target)


def _requests(source: str, limit: int | None, seed: int, *, skip_bad: bool) -> list[EditRequest]:
    from ..editing import EditRequest

    given = choosing.choose_facts(source, None, None, seed, skip_bad=skip_bad)
    found = choosing.with_objects(given, source, ("target_new",))
    return [EditRequest.of(fact) for fact in choosing.sample(found, limit, seed)]


def _method(model: Model, method: Editor[Any], preset: str, *, kl: bool) -> tuple[Editor[Any], Hparams]:
    """The editor and its hyper-parameters."""
    from ..editing.value.hparams import ValueHparams

    hparams = method.chosen(preset, None, model)
    if not kl:
        if not isinstance(hparams, ValueHparams):
            raise UsageError(f"{method.name} has no term against essence drift; leave --no-kl out")
        hparams = hparams.with_(kl_factor=0.0)
    return method, hparams


def _layers(
    model: Model, method: Editor[Any], hparams: Hparams, given: Sequence[int] | None, moments: Sequence[Path]
) -> tuple[int, ...]:
    """The layers given; else, for a method that edits one, that of the only second moment; else the default ones."""
    from ..editing import SecondMoment

    moment = SecondMoment.load(moments[0], model) if len(moments) == 1 and moments[0].is_file() else None
    if not given and moment is not None and method.one_layer:
        return (moment.layer,)
    layers = method.layers(model, given or None, hparams)
    if given and moment is not None and moment.layer not in layers:
        raise UsageError(
            f"{moments[0]} is the second moment of layer {moment.layer}; the edit is to be at layer "
            f"{', '.join(map(str, layers))}"
        )
    return layers
