"""ROME: one fact, one layer, one rank-one change (Meng et al. 2022), put together from smaller pieces.

k* = the key at the subject's last token, bare or over contexts         (read)
v* = the value that makes the model say the target                      (a trained write)
ΔW = the memory's own insertion of (k*, v*)                             (LinearMemory.insert)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import MechinterpError
from ...models.layout import VALUE
from ...models.model import Model
from ...public import public
from ..edits.edit import Edit
from ..edits.factors import Factors
from ..edits.report import RomeReport
from ..edits.request import Asked, EditRequest
from ..edits.weights import WeightChange
from ..judging.rome import judge_one
from ..judging.written_at import WrittenAt
from ..memory.linear_memory import LinearMemory
from ..rows.subjects import read_at_subjects
from ..value.value import Value, values_of
from .protocol import CONTEXTS, MOMENTS, Editor, Job, Made
from .rome_presets import PRESETS, RomeHparams
from .supplies import Given


class Rome(Editor[RomeHparams]):
    """ROME and r-ROME, which differ in their presets' choice of keys (and not in `default`)."""

    hparams_type = RomeHparams
    batch = False
    one_layer = True
    needs = (MOMENTS, CONTEXTS)

    def make(self, job: Job[RomeHparams]) -> Made:
        """A rank-one change of one down-projection."""
        [request], [layer] = job.requests, job.layers
        self._look_first(job)
        [value] = self.values(job) if job.supplies.values is None else job.supplies.values
        value.check(request, layer, VALUE, job.contexts)
        keys = self._keys(job) if job.hparams.key_contexts else value.keys
        pair = WrittenAt.of(keys, job.hparams.keys)
        insertion = self._memory(job).insert(pair.at, value.v_star, along=pair.along)
        dtype = torch.float64 if job.model.dtype == torch.float64 else torch.float32
        factors = Factors(insertion.u[None].to(dtype), insertion.v[None].to(dtype))
        return Made(WeightChange.of_layers({layer: factors}), (value,), notes=(factors, pair.along))

    def written_at(self, job: Job[RomeHparams]) -> WrittenAt:
        """The keys that the value of a job will be written at, known before it is sought.

        Its `ratio` and `missed` say what of the value will reach the bare prompt.
        """
        return WrittenAt.of(self._keys(job), job.hparams.keys)

    def _look_first(self, job: Job[RomeHparams]) -> None:
        """Refuse before the value is sought what its keys alone forbid.

        Raises:
            MechinterpError: the bare prompt's share of the direction lies outside the band.
        """
        if job.hparams.keys == "bare" or job.options.allow_disabling:
            return
        [layer] = job.layers
        wrong = job.hparams.limits.of_ratio(self.written_at(job).ratio(job.moments[layer]))
        if wrong:
            raise MechinterpError(
                f"the edit {job.names[0]} by {self.name} would disable the model: {wrong}; write at the bare prompt's "
                "key (hparams with keys='bare'), or pass allow_disabling=True to get it"
            )

    def _keys(self, job: Job[RomeHparams]) -> Float[Tensor, "context d_mlp"]:
        [layer] = job.layers
        hook = job.model.layout.key_hook(layer)
        return read_at_subjects(job.model, job.requests, job.key_contexts, (hook,))[hook][0]

    def values(self, job: Job[RomeHparams]) -> list[Value]:
        return values_of(
            job.model, job.requests, job.layers[0], contexts=job.contexts, hparams=job.hparams,
            progress=job.options.progress,
        )  # fmt: skip

    def judge(self, job: Job[RomeHparams], made: Made, seconds: float) -> RomeReport:
        """More than of other editors, since there is one fact to speak of."""
        [value] = made.values or ()
        factors, along = made.notes
        return judge_one(
            job.model, self._memory(job), value, factors, job.hparams, along=along, limits=job.hparams.limits,
            perplexity_texts=job.supplies.perplexity_texts, warnings=made.warnings,
        )  # fmt: skip

    def _memory(self, job: Job[RomeHparams]) -> LinearMemory:
        [layer] = job.layers
        return LinearMemory.of(job.model, layer, job.moments[layer], force=job.options.force)


ROME = Rome("rome", "Meng et al. 2022 (ROME; `paper` has the paper's keys, the others its code's)", PRESETS, "rome")
r_rome = Rome(
    "r-rome", "Meng et al. 2022 (eq. 2) and Gupta et al. 2024 (r-ROME)",
    {name: hparams if name == "default" else hparams.with_(keys="mean") for name, hparams in PRESETS.items()}, "rome",
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
