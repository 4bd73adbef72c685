"""ROME and r-ROME under the protocol that all editors share."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from ...errors import UsageError
from ...given import Wholes
from ...models.model import Model
from ..edits.edit import Edit
from ..edits.request import EditRequest
from ..rows.contexts import check_contexts, sample_contexts
from ..value.value import Value, values_of
from .families import default_layers
from .protocol import Editor, Moments, moments_of
from .rome import rome
from .rome_hparams import PRESETS, RomeHparams


def _layer(model: Model, layers: Wholes | None) -> int:
    chosen = model.layout.check_layers(default_layers(model, "rome") if layers is None else layers)
    if len(chosen) != 1:
        raise UsageError(f"rome writes one layer, not {list(chosen)}; give one")
    return chosen[0]


def _rome(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Wholes | None = None,
    *,
    moments: Moments,
    hparams: RomeHparams,
    values: Sequence[Value] | None = None,
    force: bool = False,
    **options: Any,
) -> Edit:
    """`rome`, of a list with one request."""
    layer = _layer(model, layers)
    return rome(
        model, requests[0], layer, moments=moments_of(model, moments, [layer], force=force)[layer], hparams=hparams,
        value=None if values is None else values[0], force=force, **options,
    )  # fmt: skip


def _rome_values(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Wholes | None,
    *,
    hparams: RomeHparams,
    contexts: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Value]:
    """The values v* of many requests, each as if it were alone."""
    if contexts is None:
        templates = sample_contexts(model, hparams.context_lengths, seed=seed)
    else:
        templates = check_contexts(contexts)
    return values_of(model, requests, _layer(model, layers), contexts=templates, hparams=hparams, progress=progress)


def _editor(name: str, source: str) -> Editor:
    return Editor(
        name=name, make=_rome, hparams=RomeHparams, source=source, layers="rome", batch=False, moments=True,
        contexts=True, values=_rome_values,
        presets={
            preset: hparams.with_(variant=name)
            for preset, hparams in PRESETS.items()
            if (name, preset) != ("rome", "paper")  # the paper's formula is r-ROME's
        },
        variant=attrgetter("variant"),
    )  # fmt: skip


ROME = _editor("rome", "Meng et al. 2022 (ROME, as its published code)")
R_ROME = _editor("r-rome", "Meng et al. 2022 (eq. 2) and Gupta et al. 2024 (r-ROME)")
