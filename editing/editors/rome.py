"""ROME: one fact, one layer, one rank-one change (Meng et al. 2022), put together from smaller pieces.

k* = the key at the subject's last token, averaged over contexts        (read)
v* = the value that makes the model say the target                      (a trained write)
ΔW = the memory's own insertion of (k*, v*)                             (LinearMemory.insert)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import torch

from ...errors import MechinterpError
from ...models.layout import VALUE
from ...models.model import Model
from ..edits.active import active_edits
from ..edits.edit import Edit
from ..edits.factors import Factors
from ..edits.provenance import Provenance
from ..edits.request import Asked, EditRequest
from ..judging.rome import judge
from ..memory.linear_memory import Insertion, LinearMemory
from ..rows.contexts import check_contexts, sample_contexts
from ..value.value import Value, values_of
from .families import default_layers
from .protocol import Moments, moments_of
from .rome_hparams import RomeHparams, resolve


def rome(
    model: Model,
    asked: Asked,
    layer: SupportsIndex | None = None,
    *,
    moments: Moments,
    target: str | None = None,
    preset: str = "default",
    hparams: RomeHparams | None = None,
    variant: str | None = None,
    contexts: Sequence[str] | None = None,
    value: Value | None = None,
    kl: bool = True,
    seed: int = 0,
    perplexity_texts: Sequence[str] = (),
    require_success: bool = False,
    allow_disabling: bool = False,
    force: bool = False,
    progress: bool = False,
) -> Edit:
    """Make the model complete a prompt with another object, by a rank-one change of one down-projection.

    The model is left as it is; apply what comes back with `edit.on(model)` or `edit.bake(model)`.  Look at
    `edit.report`: an optimisation that failed is returned with `success` False and the reason.

    Args:
        model: the model; edits that are on take part, and the new edit then presupposes them.
        asked: the request, or a fact or prompt to make it from.
        layer: which MLP; negative counts from the end; default: the published one of this model, where there
            is one (`families.toml`).
        moments: the layer's second moment, or one of each of several layers.
        target: the new object (of a fact: default its `target_new`).
        preset: "default", "code" (the published implementation) or "paper"; see `PRESET_DIFFERENCES`.
        hparams: hyper-parameters of your own, in place of a preset.
        variant: "rome" or "r-rome", in place of the hyper-parameters' own.
        contexts: templates such as "By the way, {}", the bare "{}" first; default: sampled from the model.
        value: v*, where `values_of` has found it already (with these contexts and hyper-parameters).
        kl: keep the essence-drift term (False: an ablation).
        seed: of the contexts.
        perplexity_texts: texts whose perplexity the edit must not raise by much.
        require_success: raise when the target does not become the model's own answer.
        allow_disabling: return an edit even if it endangers the model as a whole.
        force: accept a second moment collected from other weights.
        progress: show a bar over the steps.

    Raises:
        UsageError: bad input (unknown preset, layer out of range, moments of another layer or model, a
            subject or target the vocabulary cannot spell, ...).
        MechinterpError: the edit is disabling (unless allowed), it failed (if success is required), the loss
            became NaN, or the second moment is singular.
    """
    request = EditRequest.of(asked, target)
    index = model.layout.check_layer(default_layers(model, "rome")[0] if layer is None else layer)
    chosen = resolve(preset, hparams, variant)
    chosen = chosen if kl else chosen.with_(kl_factor=0.0)
    moment = moments_of(model, moments, [index], force=force)[index]
    memory = LinearMemory.of(model, index, moment, force=force)
    if contexts is None:
        templates = sample_contexts(model, chosen.context_lengths, seed=seed)
    else:
        templates = check_contexts(contexts)
    if value is None:
        [value] = values_of(model, [request], index, contexts=templates, hparams=chosen, progress=progress)
    else:
        value.check(request, index, VALUE, templates)
    insertion = _insert(memory, value, chosen)
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    factors = {index: Factors(insertion.u[None].to(dtype), insertion.v[None].to(dtype))}
    report = judge(
        model,
        request,
        index,
        memory,
        value,
        factors[index],
        chosen,
        perplexity_texts=perplexity_texts,
    )
    name = f"the edit {request.prompt.text!r} -> {request.target!r} at layer {index} of {model.name}"
    if report.disabling and not allow_disabling:
        raise MechinterpError(
            f"{name} would disable the model: {report.disabling}; pass allow_disabling=True to get it"
        )
    if require_success and not report.success:
        raise MechinterpError(f"{name} failed: {report.reason}")
    return Edit.of(
        factors,
        Provenance(
            method=chosen.variant,
            model=moment.model if not force else model.fingerprint(),
            model_name=model.name,
            requests=(request,),
            hparams=chosen.plain() | {"preset": preset if hparams is None else "own", "layer": index},
            contexts=templates,
            moments=moment.fingerprint(),
            seed=seed if contexts is None else None,
            on_top_of=active_edits(model),
            report=report,
        ),
    )


def _insert(memory: LinearMemory, value: Value, hparams: RomeHparams) -> Insertion:
    """The variant's choice of keys."""
    mean = value.keys.double().mean(0)
    if hparams.variant == "r-rome":
        return memory.insert(mean, value.v_star)
    return memory.insert(value.keys[0], value.v_star, along=mean)
