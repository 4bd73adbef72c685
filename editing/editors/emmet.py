"""EMMET: many facts in one layer, every value exactly or nearly so (Gupta et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ...errors import UsageError
from ...given import Wholes
from ...models.layout import VALUE
from ...models.model import Model
from ..edits.edit import Edit
from ..edits.request import EditRequest
from ..memory.past_keys import PastKeys
from ..memory.solve import Cost
from ..rows.contexts import START_WORDS
from ..value.value import Value
from .batch_hparams import BatchHparams
from .many_facts import Job, written
from .protocol import Editor, Moments, Requests, moments_of, past_keys
from .remember import remember_keys


@dataclass(frozen=True)
class EmmetHparams(BatchHparams):
    """As `BatchHparams`; `slack` is the published λ_D and counts from two facts on: one is written exactly.

    Args:
        remember: keys of earlier edits of a sequence are held in place as `weight` tokens of text are.
    """

    method: ClassVar[str] = "EMMET"

    clamp: float | None = 4.0
    slack: float = 0.1
    remember: bool = True


EMMET_PRESETS: dict[str, EmmetHparams] = {
    "default": EmmetHparams(),
    "code": EmmetHparams(
        steps=24,
        lr=0.5,
        lr_rule="absolute",
        stop_nll=0.0,
        weight_decay=0.5,
        weight_decay_rule="norm",
        kl_factor=0.0625,
        kl_position="subject",
        clamp=0.75,
        weight=1.0,
        context_lengths=((5, 10),),
        context_starts=START_WORDS,
        remember=False,
        max_essence=None,
    ),
}
EMMET_PRESETS["code-gpt2-xl"] = replace(EMMET_PRESETS["code"], steps=19, weight=1000.0)
"""`code`: the published figures for GPT-J; `code-gpt2-xl`: for GPT-2 XL."""


def emmet(
    model: Model,
    requests: Requests,
    layers: Wholes | None = None,
    *,
    moments: Moments,
    hparams: EmmetHparams | None = None,
    contexts: Sequence[str] | None = None,
    past: PastKeys | None = None,
    values: Sequence[Value] | None = None,
    seed: int = 0,
    allow_conflicts: bool = False,
    allow_disabling: bool = False,
    force: bool = False,
    progress: bool = False,
) -> Edit:
    """Write many facts at once into one layer: ΔW = C₀⁻¹Kᵀ (K C₀⁻¹Kᵀ + λ_D·I)⁻¹ (V* − W K).

    With one fact this is r-ROME.

    Args:
        model: the model; edits that are on take part.
        requests: what it should say.
        layers: which MLP (one); default: ROME's.
        moments: the layer's second moment.
        hparams: default: `EMMET_PRESETS["default"]`.
        contexts: templates, the bare "{}" first; default: sampled from the model.
        past: keys of earlier edits.
        values: v* of each request, where they are known.
        seed, allow_conflicts, allow_disabling, force, progress: as of `Editor`.

    Raises:
        UsageError: bad input; requests that contradict each other; several layers.
        MechinterpError: the edit is disabling (unless allowed), or the second moment is singular.
    """
    asked = EditRequest.all_of(requests, "emmet")
    chosen = hparams or EMMET_PRESETS["default"]
    chosen = chosen.with_(slack=0.0) if len(asked) == 1 else chosen
    job = _job(model, asked, layers, chosen, contexts, seed)
    [layer] = job.layers
    known, before = moments_of(model, moments, job.layers, force=force), past_keys(past)
    return written(
        job,
        lambda layer: Cost(known[layer], chosen.weight, before.of(layer) if chosen.remember else None),
        values=values, moments=known, allow_conflicts=allow_conflicts,
        allow_disabling=allow_disabling, force=force, progress=progress,
    )  # fmt: skip


def _job(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Wholes | None,
    hparams: EmmetHparams,
    contexts: Sequence[str] | None,
    seed: int,
) -> Job:
    job = Job.of(model, requests, layers, hparams, contexts, seed, method="emmet", sites=(VALUE,), family="rome")
    if len(job.layers) > 1:
        raise UsageError(f"emmet writes one layer, not {list(job.layers)}; give one")
    return job


def emmet_values(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Wholes | None,
    *,
    hparams: EmmetHparams,
    contexts: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Value]:
    """The values v* of many requests, each as if it were alone."""
    return _job(model, requests, layers, hparams, contexts, seed).values(progress=progress)


EMMET = Editor(
    name="emmet", make=emmet, hparams=EmmetHparams, presets=EMMET_PRESETS, source="Gupta et al. 2024 (EMMET)",
    layers="rome", moments=True, contexts=True, remember=remember_keys, values=emmet_values,
)  # fmt: skip
