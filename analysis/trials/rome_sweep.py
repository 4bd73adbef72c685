"""ROME at every layer: the experiment that sets editing beside tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ...editing import Edit, Editor, RomeHparams, SecondMoment
from ...editing.editors.rome import ROME
from ...editing.editors.supplies import Options
from ...errors import UsageError
from ...facts.prompts import Fact, Facts
from ...given import Wholes
from ...models.model import Model
from ...public import public
from .sweep import edit_by_layer

_JUDGED = Options(allow_disabling=True)


# Ten parameters: seven are what ROME itself is called with, said here as there; the others are which editor, where the
# table is kept, and whether a bar is shown.
@public
def rome_by_layer(
    model: Model,
    facts: Facts,
    layers: Wholes,
    moments: Mapping[int, SecondMoment],
    *,
    editor: Editor[RomeHparams] = ROME,
    hparams: RomeHparams | None = None,
    contexts: Sequence[str] | None = None,
    options: Options = _JUDGED,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Edit each fact with ROME at each layer singly, judge it, undo it (see `edit_by_layer`).

    Args:
        model: the unedited model.
        facts: each with answer and target_new.
        layers: which layers; negative ones count from the end.
        moments: the second moment of each layer.
        editor: ROME or r-ROME.
        hparams: default: the editor's preset "default".
        contexts: one set for all edits; default: sampled once.
        options: of every edit.  By default those that endanger the model are judged too, so that their damage is in the
            figures; with `Options()` they count as failed.
        out: a journal (JSON lines) to go on from after an interruption.
        progress: show a bar.

    Raises:
        UsageError: a layer without its second moment, or what `edit_by_layer` and `rome` raise.
    """
    at = model.layout.check_layers(layers)
    missing = [layer for layer in at if layer not in moments]
    if missing:
        raise UsageError(f"no second moment of layer {missing[0]} was given; collect it with collect_moments()")
    chosen = editor.chosen(hparams=hparams, model=model)
    templates = editor.contexts(model, chosen, contexts, options.seed)

    def make_edit(fact: Fact, layer: int) -> Edit:
        return editor(
            model, [fact], [layer], hparams=chosen, moments=moments, contexts=templates, seed=options.seed,
            force=options.force, allow_disabling=options.allow_disabling,
        )  # fmt: skip

    settings = {
        "method": editor.name,
        "hparams": repr(chosen),
        "contexts": list(templates),
        "allow_disabling": options.allow_disabling,
        "moments": {str(layer): moment.fingerprint() for layer, moment in sorted(moments.items())},
    }
    return edit_by_layer(model, facts, at, make_edit, settings=settings, out=out, progress=progress)
