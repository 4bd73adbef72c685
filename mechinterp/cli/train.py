"""`mechinterp train-editor`: train the network of an editor that has one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from . import choosing, options
from .running import DEFAULT, Running, expanded


@expanded
def train_editor(
    editor: Annotated[str, typer.Argument(metavar="EDITOR", help="An editor with a network, such as `mend`.")],
    model: options.ModelName,
    facts: Annotated[str, typer.Argument(metavar="FACTS", help="A bundled model's facts, or a file of facts.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Train on a seeded sample of the facts.")] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="Which MLPs (repeat for several); default: the last three.")
    ] = None,
    preset: Annotated[str, typer.Option(help="`default`, `published` or `paper`.")] = "default",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps at most, in place of the preset's.")] = None,
    skip_bad: options.SkipBad = False,
    seed: options.Seed = 0,
    out: options.Out = Path("trained"),
    running: Running = DEFAULT,
) -> None:
    """Train an editor's network on facts, and validate it on subjects it never learns from.

    Writes `trained.safetensors` (give its folder to `mechinterp edit --trained`), the state of the training and its
    log.  After Ctrl-C or a kill the same command goes on where it was validated last, to the same weights.

    Examples:

        mechinterp train-editor mend atlas atlas --out runs/mend

        mechinterp edit atlas --editor mend --trained runs/mend --facts atlas --limit 1
    """
    method: Any = trainable(editor)
    hparams = method.chosen(preset)
    if steps is not None:
        hparams = hparams.with_(steps=steps)
    options.check_layers(model, layer or ())
    given = choosing.choose_facts(facts, None, None, seed, skip_bad=skip_bad)
    known = choosing.sample(choosing.with_objects(given, facts, ("target_new",)), limit, seed)
    loaded = running.load(model)
    made = method.train(loaded, known, out, layer or None, hparams=hparams, seed=seed, progress=not running.quiet)
    told = made.trained.report
    last = min(told["log"], key=lambda row: row["total"])
    typer.echo(
        f"{method.name} of {loaded.name}: {told['parameters']:,} parameters, {told['steps']} steps in "
        f"{told['seconds']:.0f} s; on {len(told['held_out'])} held-out subjects the best (step {told['best_step']}) "
        f"says {100 * last['said']:.0f} % of rephrased edits, and moves other texts by {last['local']:.3f} nats"
    )
    typer.echo(f"written to {out}")


def trainable(name: str) -> Any:
    """The editor of this name, if it has a network to train.

    Raises:
        UsageError: there is none, or it has no network.
    """
    from ..editing.editors.learnt import LearntEditor
    from ..editing.editors.registry import EDITORS
    from ..editing.editors.registry import editor as named

    method = named(name)
    if not isinstance(method, LearntEditor):
        those = [one.name for one in EDITORS.values() if isinstance(one, LearntEditor)]
        raise UsageError(f"{name} has no network to train; those that have are {', '.join(those)}")
    return method


def trained_for(name: str, folder: Path | None, preset: str) -> Any:
    """The editor of this name with the network of a folder; None for an editor without a network.

    Raises:
        UsageError: a network for an editor that has none, or none for one that needs it.
    """
    from ..editing import LearntEditor, Trained
    from ..editing import editor as named

    if folder is not None:
        if preset != "default":
            raise UsageError("--preset is of the training; an editor that is trained keeps what it was trained with")
        return trainable(name).with_trained(Trained.load(folder))
    if isinstance(named(name), LearntEditor):
        raise UsageError(
            f"{name} has a network that must be trained first: mechinterp train-editor {name} MODEL FACTS --out "
            "FOLDER; then pass --trained FOLDER"
        )
    return None
