"""PMET: the value is sought together with one for attention, which is then thrown away (Li et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...given import Wholes
from ...models.layout import ATTN, MLP
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

_SITES = (MLP, ATTN)


@dataclass(frozen=True)
class PmetHparams(BatchHparams):
    """As `BatchHparams`; the value is the MLP's output at the last edited layer.

    Args:
        remember: keys of earlier edits of a sequence count as much as this batch's (published PMET forgets them).
    """

    method: ClassVar[str] = "PMET"

    spread: str = "root"
    remember: bool = True


PMET_PRESETS: dict[str, PmetHparams] = {
    "default": PmetHparams(),
    "code": PmetHparams(
        steps=29,
        lr=0.2,
        lr_rule="absolute",
        stop_nll=0.0,
        weight_decay=0.5,
        weight_decay_rule="norm",
        kl_factor=1.0,
        kl_position="subject",
        clamp=0.75,
        weight=6000.0,
        context_lengths=((5, 10),),
        context_starts=START_WORDS,
        remember=False,
        max_essence=None,
    ),
}
"""`code`: the published figures for GPT-J.  The published loop weighs the NLL by a tenth once the target is the first
choice, and stops when KL is at most 0.01; here it stops as every value does."""


def pmet(
    model: Model,
    requests: Requests,
    layers: Wholes | None = None,
    *,
    moments: Moments,
    hparams: PmetHparams | None = None,
    contexts: Sequence[str] | None = None,
    past: PastKeys | None = None,
    values: Sequence[Value] | None = None,
    seed: int = 0,
    allow_conflicts: bool = False,
    allow_disabling: bool = False,
    force: bool = False,
    progress: bool = False,
) -> Edit:
    """Write many facts at once into several layers, aiming at the MLP's own output at the last of them.

    As `memit`, but the value is a change of the last layer's MLP output, sought together with a change of its attention
    output, of which nothing is written; each layer takes what is missing divided by the root of the layers left.

    Args:
        model: the model; edits that are on take part.
        requests: what it should say.
        layers: which MLPs; default: MEMIT's.
        moments: the second moment of each layer.
        hparams: default: `PMET_PRESETS["default"]`.
        contexts: templates, the bare "{}" first; default: sampled from the model.
        past: keys of earlier edits.
        values: the MLP value of each request, where they are known.
        seed, allow_conflicts, allow_disabling, force, progress: as of `Editor`.

    Raises:
        UsageError: bad input; requests that contradict each other.
        MechinterpError: the edit is disabling (unless allowed), or the second moment is singular.
    """
    asked = EditRequest.all_of(requests, "pmet")
    chosen = hparams or PMET_PRESETS["default"]
    job = Job.of(model, asked, layers, chosen, contexts, seed, method="pmet", sites=_SITES)
    known, before = moments_of(model, moments, job.layers, force=force), past_keys(past)
    return written(
        job,
        lambda layer: Cost(known[layer], chosen.weight, before.of(layer) if chosen.remember else None),
        values=values, moments=known, allow_conflicts=allow_conflicts,
        allow_disabling=allow_disabling, force=force, progress=progress,
    )  # fmt: skip


def pmet_values(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Wholes | None,
    *,
    hparams: PmetHparams,
    contexts: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Value]:
    """The MLP values of many requests, each as if it were alone."""
    return Job.of(model, requests, layers, hparams, contexts, seed, method="pmet", sites=_SITES).values(
        progress=progress
    )


PMET = Editor(
    name="pmet", make=pmet, hparams=PmetHparams, presets=PMET_PRESETS, source="Li et al. 2023 (PMET)",
    layers="memit", moments=True, contexts=True, remember=remember_keys, values=pmet_values,
)  # fmt: skip
