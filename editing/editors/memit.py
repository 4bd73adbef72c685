"""MEMIT: many facts, several layers, least squares against everything the layers know (Meng et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ...given import Wholes
from ...models.layout import RESID
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
class MemitHparams(BatchHparams):
    """As `BatchHparams`; the value is the residual after the last edited layer, so `clamp` counts in its norm.

    Args:
        remember: keys of earlier edits of a sequence count as much as this batch's (published MEMIT forgets them).
    """

    method: ClassVar[str] = "MEMIT"

    clamp: float | None = 1.5
    remember: bool = True


MEMIT_CODE = MemitHparams(
    steps=24,
    lr=0.5,
    lr_rule="absolute",
    stop_nll=0.0,
    weight_decay=0.5,
    weight_decay_rule="norm",
    kl_factor=0.0625,
    kl_position="subject",
    clamp=0.75,
    weight=15000.0,
    context_lengths=((5, 10),),
    context_starts=START_WORDS,
    remember=False,
    max_essence=None,
)

MEMIT_PRESETS: dict[str, MemitHparams] = {
    "default": MemitHparams(),
    "code": MEMIT_CODE,
    "code-gpt2-xl": replace(MEMIT_CODE, steps=19, weight=20000.0),
}
"""`code`: what the published implementation computes with its figures for GPT-J (25 loss evaluations, hence 24 steps);
`code-gpt2-xl`: those for GPT-2 XL.  `default` was measured on the bundled model (README)."""


def memit(
    model: Model,
    requests: Requests,
    layers: Wholes | None = None,
    *,
    moments: Moments,
    hparams: MemitHparams | None = None,
    contexts: Sequence[str] | None = None,
    past: PastKeys | None = None,
    values: Sequence[Value] | None = None,
    seed: int = 0,
    allow_conflicts: bool = False,
    allow_disabling: bool = False,
    force: bool = False,
    progress: bool = False,
) -> Edit:
    """Write many facts at once into several layers.

    Each fact's target z is a value of the residual after the last layer.  From the lowest layer up, ΔW = (λC + K_pᵀK_p
    + KᵀK)⁻¹ Kᵀ R writes the layer's share of what is still missing, R = (z − h)/(layers left), at its keys, which are
    read anew on the model as the layers before have left it.

    Args:
        model: the model; edits that are on take part.
        requests: what it should say.
        layers: which MLPs; default: the published ones of this model.
        moments: the second moment of each layer.
        hparams: default: `MEMIT_PRESETS["default"]`.
        contexts: templates, the bare "{}" first; default: sampled from the model.
        past: keys of earlier edits.
        values: the z of each request, where they are known.
        seed, allow_conflicts, allow_disabling, force, progress: as of `Editor`.

    Raises:
        UsageError: bad input; requests that contradict each other.
        MechinterpError: the edit is disabling (unless allowed), or the second moment is singular.
    """
    asked = EditRequest.all_of(requests, "memit")
    chosen = hparams or MEMIT_PRESETS["default"]
    job = Job.of(model, asked, layers, chosen, contexts, seed, method="memit", sites=(RESID,))
    known, before = moments_of(model, moments, job.layers, force=force), past_keys(past)
    return written(
        job,
        lambda layer: Cost(known[layer], chosen.weight, before.of(layer) if chosen.remember else None),
        values=values, moments=known, allow_conflicts=allow_conflicts,
        allow_disabling=allow_disabling, force=force, progress=progress,
    )  # fmt: skip


def memit_values(
    model: Model,
    requests: Sequence[EditRequest],
    layers: Wholes | None,
    *,
    hparams: BatchHparams,
    contexts: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Value]:
    """The targets z of many requests, each as if it were alone."""
    return Job.of(model, requests, layers, hparams, contexts, seed, method="memit", sites=(RESID,)).values(
        progress=progress
    )


MEMIT = Editor(
    name="memit", make=memit, hparams=MemitHparams, presets=MEMIT_PRESETS, source="Meng et al. 2023 (MEMIT)",
    layers="memit", moments=True, contexts=True, remember=remember_keys, values=memit_values,
)  # fmt: skip
