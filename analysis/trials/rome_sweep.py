"""ROME at every layer: the experiment that sets editing beside tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ...editing import Edit, RomeHparams, SecondMoment, rome, sample_contexts
from ...editing.editors.rome_hparams import resolve
from ...editing.rows.contexts import check_contexts
from ...errors import UsageError
from ...facts.prompts import Fact, Facts
from ...given import Wholes
from ...models.model import Model
from .sweep import edit_by_layer


def rome_by_layer(
    model: Model,
    facts: Facts,
    layers: Wholes,
    moments: Mapping[int, SecondMoment],
    *,
    preset: str = "default",
    hparams: RomeHparams | None = None,
    variant: str | None = None,
    contexts: Sequence[str] | None = None,
    kl: bool = True,
    seed: int = 0,
    allow_disabling: bool = True,
    out: str | Path | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """Edit each fact with ROME at each layer singly, judge it, undo it (see `edit_by_layer`).

    Args:
        model: the unedited model.
        facts: each with answer and target_new.
        layers: which layers; negative ones count from the end.
        moments: the second moment of each layer.
        preset, hparams, variant, kl: as `rome` takes them.
        contexts: one set for all edits; default: sampled once, with `seed`.
        seed: of the contexts.
        allow_disabling: judge edits that endanger the model too, so that their damage is in the figures; else
            they count as failed.
        out: a journal (JSON lines) to go on from after an interruption.
        batch_size: rows per forward when judging.
        progress: show a bar.

    Raises:
        UsageError: a layer without its second moment, or what `edit_by_layer` and `rome` raise.
    """
    at = model.layout.check_layers(layers)
    missing = [layer for layer in at if layer not in moments]
    if missing:
        raise UsageError(f"no second moment of layer {missing[0]} was given; collect it with collect_moments()")
    chosen = resolve(preset, hparams, variant)
    if contexts is None:
        contexts = sample_contexts(model, chosen.context_lengths, seed=seed)
    templates = list(check_contexts(contexts))

    def make_edit(fact: Fact, layer: int) -> Edit:
        return rome(
            model, fact, layer, moments=moments[layer], hparams=chosen, contexts=templates, kl=kl,
            allow_disabling=allow_disabling,
        )  # fmt: skip

    settings = {
        "method": "rome",
        "hparams": repr(chosen),
        "contexts": templates,
        "kl": kl,
        "allow_disabling": allow_disabling,
        "moments": {str(layer): moment.fingerprint() for layer, moment in sorted(moments.items())},
    }
    return edit_by_layer(
        model, facts, at, make_edit, settings=settings, out=out, batch_size=batch_size, progress=progress
    )
