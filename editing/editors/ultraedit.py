"""UltraEdit: many facts in one linear solve, from keys and gradients alone (TMLR 2026).

For each token i that predicts one of a target, hᵢ is the input of a layer's down-projection and gᵢ the gradient of the
NLL by its output.  With ĥ and ĝ normalised coordinate by coordinate by the mean and spread of everything edited so far,

    vᵢ = −η ‖ĥᵢ‖² ĝᵢ,        ΔW = (HᵀH + I)⁻¹ Hᵀ V        (H: the raw keys as rows)

No subject, no optimisation, no second moment: one forward, one backward and one solve.  By the push-through identity
ΔW = Hᵀ (HHᵀ + I)⁻¹ V, so the solve has the size of the batch and the change its rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from ...errors import MechinterpError
from ...models.model import Model
from ..edits.active import effective_weight
from ..edits.edit import Edit
from ..edits.factors import Factors
from ..edits.weights import WeightChange
from ..gradients.signals import LifelongStatistics, Signals, Spread, mean_batches, signals_of, together
from ..hyperparameters import LR_RULES, Hparams
from ..judging.many import Limits
from .protocol import Editor, Job, Made


@dataclass(frozen=True)
class UltraHparams(Hparams):
    """How keys and gradients become a change.

    Args:
        lr: η.
        lr_rule: "absolute": as it is; "relative": in units of √mean(output²)/d_mlp, where the output is that of the
            layer at the tokens that are edited: η is then about the size of v next to that output, the same on models
            of every width and scale.
        ridge: what is added to HᵀH.
        inner_batch: how many requests share one forward as the published code counts: the gradient is that of the mean
            NLL over all target tokens of these; 0: as it should be, of the sum, so that a batch's gradients are those
            of its requests alone.  With it all layers share one mean and spread, to which each inner batch adds n times
            its unbiased variance (`Spread`), and a gradient of zero is not refused.
        warm_up: with fewer tokens seen than this, no coordinate's own mean and spread are known well enough: keys and
            gradients are then only scaled to unit root mean square.
        max_essence: as of `BatchHparams`.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "UltraEdit"

    lr: float = 1.5
    lr_rule: str = "relative"
    ridge: float = 1.0
    inner_batch: int = 0
    warm_up: int = 20
    max_essence: float | None = 5.0

    def __post_init__(self) -> None:
        self._one_of(lr_rule=LR_RULES)
        self._above_zero("lr", "ridge", "max_essence")
        self._not_negative("warm_up", "inner_batch")


ULTRA_PRESETS: dict[str, UltraHparams] = {
    "default": UltraHparams(),
    "published": UltraHparams(lr=1e-6, lr_rule="absolute", inner_batch=10, warm_up=2, max_essence=None),
    "published-figures": UltraHparams(lr=1e-6, lr_rule="absolute", warm_up=2, max_essence=None),
}
"""`published`: of GPT-J (layers 18 to 26, 100 requests at a time, 10 in a forward) in the code of UltraEdit (TMLR
2026).  It refuses what makes that code NaN.  `published-figures`: its figures with exact statistics of each layer.

`default` was measured on 50 facts of the bundled `atlas` at layer 6, alone and in one batch.  η = 1.2: ES 82 and 68,
PS 70 and 46, NS 69 and 89; η = 1.5: ES 96 and 86, PS 86 and 74, NS 44 and 78.  Lower layers are worse:
the method edits at the answer's token, where they do not yet know the subject.
"""


class UltraEdit(Editor[UltraHparams]):
    """UltraEdit; what it takes as `past` are the statistics of earlier edits (`LifelongStatistics`)."""

    hparams_type = UltraHparams

    def make(self, job: Job[UltraHparams]) -> Made:
        """One regularised solve per layer."""
        return _made(job, signals_of(job.model, job.requests, job.layers))

    def make_each(self, job: Job[UltraHparams]) -> list[Made]:
        """A change of each request alone, keys and gradients of many read together."""
        each = signals_of(job.model, job.requests, job.layers)
        return [_made(job.alone(i), [own]) for i, own in enumerate(each)]

    def remember(self, job: Job[UltraHparams], edit: Edit) -> LifelongStatistics:
        """The statistics with those of these requests."""
        return _seen(job, _batches(job, signals_of(job.model, job.requests, edit.layers)))

    def limits(self, hparams: UltraHparams) -> Limits:
        return Limits(essence=hparams.max_essence)


def _batches(job: Job[UltraHparams], each: Sequence[Mapping[int, Signals]]) -> list[dict[int, Signals]]:
    """The signals of some requests as the batches that they are counted in."""
    if not job.hparams.inner_batch:
        return [together(each)]
    lengths = [
        len(job.model.tokenise(request.prompt).ids) + len(job.model.answer_ids(request.prompt, request.target))
        for request in job.requests
    ]
    return mean_batches(each, lengths, job.hparams.inner_batch)


def _seen(job: Job[UltraHparams], batches: Sequence[Mapping[int, Signals]]) -> LifelongStatistics:
    """The statistics with those of these batches."""
    seen: LifelongStatistics = job.supplies.past or LifelongStatistics()
    for batch in batches:
        seen = seen.joined(batch, published=job.hparams.inner_batch > 0)
    return seen


def _made(job: Job[UltraHparams], each: Sequence[Mapping[int, Signals]]) -> Made:
    batches = _batches(job, each)
    found = _solve_layers(job.model, together(batches), _seen(job, batches), job.hparams)
    return Made(WeightChange.of_layers(found))


def _solve_layers(
    model: Model, signals: Mapping[int, Signals], seen: LifelongStatistics, hparams: UltraHparams
) -> dict[int, Factors]:
    """One regularised solve per layer; `seen` are the statistics, those of these signals among them."""
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    factors = {}
    for layer, own in signals.items():
        lr, keys = hparams.lr, own.keys.double()
        if hparams.lr_rule == "relative":
            outputs = keys @ effective_weight(model, layer).double()
            lr *= float(outputs.square().mean().sqrt()) / model.d_mlp
        h, g = _normalised(own, seen.of(layer, published=hparams.inner_batch > 0), hparams)
        values = -lr * h.square().sum(1, keepdim=True) * g
        identity = torch.eye(len(keys), dtype=keys.dtype, device=keys.device)
        solved = torch.linalg.solve(keys @ keys.T + hparams.ridge * identity, values)
        factors[layer] = Factors(keys.to(dtype), solved.to(dtype)).compact()
    return factors


def _normalised(
    signals: Signals, seen: Spread, hparams: UltraHparams
) -> tuple[Float64[Tensor, "token d_mlp"], Float64[Tensor, "token d_model"]]:
    """ĥ and ĝ."""
    h, g = signals.keys.double(), signals.gradients.double()
    no_direction = not hparams.inner_batch and bool((g.square().sum(1) == 0).any())
    if not bool(torch.isfinite(g).all()) or no_direction:
        raise MechinterpError(
            "the gradient of a target token is zero or not finite, which gives no direction to edit in; leave out what "
            "the model is certain of already, and load it in float32"
        )
    if seen.count < max(2, hparams.warm_up):
        h, g = (side / side.square().mean(1, keepdim=True).sqrt() for side in (h, g))
        return h, g
    eps = torch.finfo(torch.float32).eps
    both = (signals.joint - seen.mean) / (seen.std_with(eps if hparams.inner_batch else 0.0) + eps)
    return both[:, : h.shape[1]], both[:, h.shape[1] :]


ultraedit = UltraEdit("ultraedit", "UltraEdit (TMLR 2026)", ULTRA_PRESETS, "ultraedit")
"""Write many facts at once by one solve per layer: an `Editor`; call it with the model and the requests."""
