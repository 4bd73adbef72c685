"""UltraEdit: many facts in one linear solve, from keys and gradients alone (TMLR 2026).

For each token i that predicts one of a target, hᵢ is the input of a layer's down-projection and gᵢ the gradient of the
NLL by its output.  With ĥ and ĝ normalised coordinate by coordinate by the mean and spread of everything edited so far,

    vᵢ = −η ‖ĥᵢ‖² ĝᵢ,        ΔW = (HᵀH + I)⁻¹ Hᵀ V        (H: the raw keys as rows)

No subject, no optimisation, no second moment: one forward, one backward and one solve.  By the push-through identity
ΔW = Hᵀ (HHᵀ + I)⁻¹ V, so the solve has the size of the batch and the change its rank.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from ...errors import MechinterpError
from ...given import Wholes
from ...models.model import Model
from ..edits.active import active_edits, effective_weight
from ..edits.edit import Edit
from ..edits.factors import Factors
from ..edits.provenance import Provenance
from ..edits.request import EditRequest
from ..gradients.signals import LifelongStatistics, Signals, Spread, signals_of, together
from ..judging.conflicts import check_conflicts
from ..judging.many import Limits, judge_batch, refuse_disabling
from ..value.hparams import Hparams
from .families import default_layers
from .protocol import Editor, Requests
from .ultraedit_hparams import PRESETS, UltraHparams


def ultraedit(
    model: Model,
    requests: Requests,
    layers: Wholes | None = None,
    *,
    hparams: UltraHparams | None = None,
    past: LifelongStatistics | None = None,
    allow_conflicts: bool = False,
    allow_disabling: bool = False,
    seed: int = 0,
    force: bool = False,
    progress: bool = False,
) -> Edit:
    """Make the model say the targets of all requests by one regularised solve per layer.

    Args:
        model: the model; edits that are on take part, and the new edit then presupposes them.
        requests: what it should say.
        layers: which layers; default: the published ones of this model, where there are any.
        hparams: default: `PRESETS["default"]`.
        past: the statistics of earlier edits (`remember_statistics`); those of these requests are added before they are
            used.
        allow_conflicts: accept requests that contradict each other.
        allow_disabling: return an edit even if it endangers the model as a whole.
        seed: nothing here is drawn, so it has no effect; every editor takes one.
        force: nothing here is collected from other weights, so it has no effect either.
        progress: there is nothing to wait for, so it has no effect.

    Raises:
        UsageError: bad input.
        MechinterpError: gradients that vanish or are not finite, or a disabling edit.
    """
    asked, chosen = EditRequest.all_of(requests, "ultraedit"), hparams or PRESETS["default"]
    warnings, indices = check_conflicts(model, asked, allow=allow_conflicts), _layers(model, layers)
    started = time.perf_counter()
    factors = _solve_layers(model, together(signals_of(model, asked, indices)), past or LifelongStatistics(), chosen)
    seconds = time.perf_counter() - started
    edit = _edit(model, asked, factors, chosen, model.fingerprint(), seconds, warnings)
    refuse_disabling(edit.report, "the edit by ultraedit", allow=allow_disabling)
    return edit


def ultraedit_each(
    model: Model,
    requests: Requests,
    layers: Wholes | None = None,
    *,
    hparams: UltraHparams | None = None,
    past: LifelongStatistics | None = None,
    seed: int = 0,
    force: bool = False,
    progress: bool = False,
) -> list[Edit]:
    """An edit of each request alone: what `ultraedit` gives for it, keys and gradients of many read together.

    Args:
        model, requests, layers and the rest: as of `ultraedit`.

    Returns:
        One edit per request, in order.  A disabling one is among them, and its report says so.

    Raises:
        UsageError: bad input.
        MechinterpError: gradients that vanish or are not finite.
    """
    asked, chosen = EditRequest.all_of(requests, "ultraedit"), hparams or PRESETS["default"]
    indices, fingerprint, edits = _layers(model, layers), model.fingerprint(), []
    started = time.perf_counter()
    signals = signals_of(model, asked, indices)
    seconds = (time.perf_counter() - started) / len(asked)
    for request, own in zip(asked, signals, strict=True):
        factors = _solve_layers(model, own, past or LifelongStatistics(), chosen)
        edits.append(_edit(model, [request], factors, chosen, fingerprint, seconds, check_conflicts(model, [request])))
    return edits


def remember_statistics(
    model: Model,
    made: Edit,
    requests: Sequence[EditRequest],
    *,
    hparams: Hparams,
    contexts: Sequence[str] | None = None,
    past: LifelongStatistics | None = None,
) -> LifelongStatistics:
    """The statistics after an edit, for the next one of a sequence.

    Args:
        model: with the edits on that were on when this one was made.
        made: the edit.
        requests: that it was made for.
        hparams, contexts: of no use here; every editor that remembers is told them.
        past: the statistics before.
    """
    return (past or LifelongStatistics()).joined(together(signals_of(model, requests, made.layers)))


def _layers(model: Model, layers: Wholes | None) -> list[int]:
    """Without repetition, in order."""
    wanted = default_layers(model, "ultraedit") if layers is None else layers
    return sorted(set(model.layout.check_layers(wanted)))


def _solve_layers(
    model: Model, signals: Mapping[int, Signals], past: LifelongStatistics, hparams: UltraHparams
) -> dict[int, Factors]:
    seen = past.joined(signals)
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    factors = {}
    for layer, own in signals.items():
        lr, keys = hparams.lr, own.keys.double()
        if hparams.lr_rule == "relative":
            outputs = keys @ effective_weight(model, layer).double()
            lr *= float(outputs.square().mean().sqrt()) / model.d_mlp
        h, g = _normalised(own, seen.spreads[layer], hparams)
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
    if not bool(torch.isfinite(g).all()) or bool((g.square().sum(1) == 0).any()):
        raise MechinterpError(
            "the gradient of a target token is zero or not finite, which gives no direction to edit in; leave out what "
            "the model is certain of already, and load it in float32"
        )
    if seen.count < max(2, hparams.warm_up):
        h, g = (side / side.square().mean(1, keepdim=True).sqrt() for side in (h, g))
        return h, g
    both = (signals.joint - seen.mean) / (seen.std + torch.finfo(torch.float32).eps)
    return both[:, : h.shape[1]], both[:, h.shape[1] :]


def _edit(
    model: Model,
    requests: Sequence[EditRequest],
    factors: Mapping[int, Factors],
    hparams: UltraHparams,
    fingerprint: str,
    seconds: float,
    warnings: Sequence[str],
) -> Edit:
    return Edit.of(
        factors,
        Provenance(
            method="ultraedit",
            model=fingerprint,
            model_name=model.name,
            requests=tuple(requests),
            hparams=hparams.plain() | {"layers": sorted(factors)},
            on_top_of=active_edits(model),
            report=judge_batch(
                model, requests, factors, seconds=seconds, warnings=warnings, limits=Limits(essence=hparams.max_essence)
            ),
        ),
    )


ULTRAEDIT = Editor(
    name="ultraedit", make=ultraedit, hparams=UltraHparams, presets=PRESETS, source="UltraEdit (TMLR 2026)",
    layers="ultraedit", remember=remember_statistics, each=ultraedit_each,
)  # fmt: skip
