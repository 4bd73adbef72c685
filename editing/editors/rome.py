"""ROME: one fact, one layer, one rank-one change (Meng et al. 2022), put together from smaller pieces.

k* = the key at the subject's last token, averaged over contexts        (read)
v* = the value that makes the model say the target                      (a trained write)
ΔW = the memory's own insertion of (k*, v*)                             (LinearMemory.insert)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex, Unpack

import torch

from ...models.layout import VALUE
from ...models.model import Model
from ...public import public
from ..edits.edit import Edit
from ..edits.factors import Factors
from ..edits.report import RomeReport
from ..edits.request import Asked, EditRequest
from ..edits.weights import WeightChange
from ..judging.rome import judge_one
from ..memory.linear_memory import LinearMemory
from ..value.value import Value, values_of
from .protocol import CONTEXTS, MOMENTS, Editor, Job, Made
from .rome_presets import PRESETS, RomeHparams
from .supplies import Given


class Rome(Editor[RomeHparams]):
    """ROME and r-ROME, which differ in their presets' choice of keys."""

    hparams_type = RomeHparams
    batch = False
    one_layer = True
    needs = (MOMENTS, CONTEXTS)

    def make(self, job: Job[RomeHparams]) -> Made:
        """A rank-one change of one down-projection."""
        [request], [layer] = job.requests, job.layers
        [value] = self.values(job) if job.supplies.values is None else job.supplies.values
        value.check(request, layer, VALUE, job.contexts)
        memory, mean = self._memory(job), value.keys.double().mean(0)
        if job.hparams.keys == "mean":
            insertion = memory.insert(mean, value.v_star)
        else:
            insertion = memory.insert(value.keys[0], value.v_star, along=mean)
        dtype = torch.float64 if job.model.dtype == torch.float64 else torch.float32
        factors = Factors(insertion.u[None].to(dtype), insertion.v[None].to(dtype))
        return Made(WeightChange.of_layers({layer: factors}), values=(value,), notes=factors)

    def values(self, job: Job[RomeHparams]) -> list[Value]:
        return values_of(
            job.model, job.requests, job.layers[0], contexts=job.contexts, hparams=job.hparams,
            progress=job.options.progress,
        )  # fmt: skip

    def judge(self, job: Job[RomeHparams], made: Made, seconds: float) -> RomeReport:
        """More than of other editors, since there is one fact to speak of."""
        [value] = made.values or ()
        return judge_one(
            job.model, self._memory(job), value, made.notes, job.hparams, limits=job.hparams.limits,
            perplexity_texts=job.supplies.perplexity_texts, warnings=made.warnings,
        )  # fmt: skip

    def _memory(self, job: Job[RomeHparams]) -> LinearMemory:
        [layer] = job.layers
        return LinearMemory.of(job.model, layer, job.moments[layer], force=job.options.force)


ROME = Rome("rome", "Meng et al. 2022 (ROME; `paper` has the paper's keys, the others its code's)", PRESETS, "rome")
r_rome = Rome(
    "r-rome", "Meng et al. 2022 (eq. 2) and Gupta et al. 2024 (r-ROME)",
    {name: hparams.with_(keys="mean") for name, hparams in PRESETS.items()}, "rome",
)  # fmt: skip


@public
def rome(
    model: Model,
    asked: Asked | Sequence[Asked],
    layer: SupportsIndex | None = None,
    *,
    target: str | None = None,
    preset: str = "default",
    hparams: RomeHparams | None = None,
    **given: Unpack[Given],
) -> Edit:
    """Make the model complete a prompt with another object, by a rank-one change of one down-projection.

    The model is left as it is; apply what comes back with `edit.on(model)` or `edit.bake(model)`.  Look at
    `edit.report`: an optimisation that failed is returned with `success` False and the reason.  This is
    `EDITORS["rome"]` for one request.

    Args:
        model: the model; edits that are on take part, and the new edit then presupposes them.
        asked: the request, or a fact or prompt to make it from; a list of one is that one.
        layer: which MLP; negative counts from the end; default: the published one of this model, where there
            is one (`families.toml`).
        target: the new object (of a fact: default its `target_new`).
        preset: "default", "code" (the published implementation) or "paper"; see `PRESET_DIFFERENCES`.
        hparams: hyper-parameters of your own, in place of a preset.
        given: moments (the layer's second moment) and others of `Supplies` and `Options`: contexts, seed, progress,
            allow_disabling, require_success, perplexity_texts, ...

    Raises:
        UsageError: bad input (unknown preset, layer out of range, moments of another layer or model, a
            subject or target the vocabulary cannot spell, ...).
        MechinterpError: the edit is disabling (unless allowed), it failed (if success is required), the loss
            became NaN, or the second moment is singular.
    """
    given_one: Any = asked[0] if isinstance(asked, (list, tuple)) and len(asked) == 1 else asked
    several = isinstance(given_one, (list, tuple))
    requests = EditRequest.all_of(given_one, ROME.name) if several else [EditRequest.of(given_one, target)]
    return ROME(model, requests, layer, preset=preset, hparams=hparams, **given)
