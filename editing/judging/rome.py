"""Judging an edit before it is handed out: did it succeed, and does it endanger the model?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from ...facts.prompts import Prompt
from ...models.model import Model
from ..editors.rome_hparams import RomeHparams
from ..edits.active import added
from ..edits.factors import Factors
from ..edits.report import EssenceDrift, RomeReport
from ..edits.request import EditRequest
from ..memory.linear_memory import LinearMemory
from ..rows.completions import (
    NEUTRAL_TEMPLATES,
    Completion,
    completions,
    kl_divergence,
    next_token_log_probs,
    perplexity,
)
from ..value.hparams import ValueHparams
from ..value.value import Value
from .change import layer_change
from .conflicts import merging

_BARELY = 0.1
"""An optimisation that lowers the target's NLL by less than this share has not moved."""


def judge(
    model: Model,
    request: EditRequest,
    layer: int,
    memory: LinearMemory,
    value: Value,
    factors: Factors,
    hparams: RomeHparams,
    *,
    perplexity_texts: Sequence[str] = (),
) -> RomeReport:
    """The full report of an edit, every figure "after" taken with the edit applied."""
    prompt, subject = request.prompt, request.subject
    asked = [(prompt, request.target)] + ([(prompt, prompt.answer)] if prompt.answer is not None else [])
    templates = dict.fromkeys((hparams.kl_template, *NEUTRAL_TEMPLATES))
    neutral = [Prompt(template, subject) for template in templates]

    before = completions(model, asked)
    original = next_token_log_probs(model, neutral)
    hooked = kl_divergence(next_token_log_probs(model, neutral, layer=layer, delta=value.delta), original)
    perplexity_before = perplexity(model, perplexity_texts) if perplexity_texts else None
    with added(model, {"draft": {layer: factors}}):
        after = completions(model, asked)
        applied = kl_divergence(next_token_log_probs(model, neutral), original)
        perplexity_after = perplexity(model, perplexity_texts) if perplexity_texts else None

    bare, mean = value.keys[0].double(), value.keys.double().mean(0)
    u = factors.u[0].double().to(bare.device)
    delta = factors.dense.to(memory.weight.device)
    change = layer_change(layer, memory.weight, factors, memory.moments)
    edited = replace(memory, weight=memory.weight + delta)  # in the finer precision of the two, as the edit is applied
    report = RomeReport(
        success=after[0].top,
        reason="" if after[0].top else why_failed(value, after[0], hparams),
        losses=value.losses,
        steps=value.steps,
        stopped_early=value.stopped_early,
        clamped_steps=value.clamped_steps,
        delta_norm=float(value.delta.norm() / value.v0.norm()),
        target_before=before[0].prob,
        target_after=after[0].prob,
        answer_before=before[1].prob if len(before) > 1 else None,
        answer_after=after[1].prob if len(after) > 1 else None,
        error_at_mean_key=_error(edited, mean, value),
        error_at_bare_key=_error(edited, bare, value),
        norm_ratio=change.norm_ratio,
        disturbance=change.disturbance,
        key_ratio=float((bare @ u) / (mean @ u)),
        essence=tuple(
            EssenceDrift(sentence.text, float(hooked[i]), float(applied[i])) for i, sentence in enumerate(neutral)
        ),
        perplexity_before=perplexity_before,
        perplexity_after=perplexity_after,
        disabling="",
        scored=model.continuation(prompt, request.target).text,
        warnings=merging(model, request),
    )
    return replace(report, disabling=_disabling(report, hparams))


def _error(memory: LinearMemory, key: Float[Tensor, " d_mlp"], value: Value) -> float:
    wanted = value.v_star.double()
    return float((memory.recall(key) - wanted).norm() / wanted.norm())


def why_failed(value: Value, after: Completion, hparams: ValueHparams) -> str:
    """One sentence on why the target is not the model's answer."""
    first, last = value.losses[0], value.losses[-1]
    outcome = f"the target is not the model's first choice after the edit (P = {after.prob:.3g})"
    if last.nll > (1 - _BARELY) * first.nll:
        parts = {"weight decay": last.weight_decay, "the KL term": last.kl}
        name, cost = max(parts.items(), key=lambda part: part[1])
        held = f"{name} costs {cost:.3g}" if cost > 0.05 * last.nll else f"lr is {hparams.lr:g}"
        return (
            f"the optimisation did not move: the target's NLL went from {first.nll:.3f} to {last.nll:.3f} in "
            f"{value.steps} steps ({held}); {outcome}"
        )
    if value.clamped_steps > value.steps // 2:
        return (
            f"the value was held at its limit of {hparams.clamp:g} times its own norm in "
            f"{value.clamped_steps} of {value.steps} steps, NLL {first.nll:.3f} to {last.nll:.3f}; {outcome}"
        )
    return (
        f"NLL over the contexts went from {first.nll:.3f} to {last.nll:.3f} in {value.steps} steps, which "
        f"is not enough or does not carry over from the value to the weights; {outcome}"
    )


def _disabling(report: RomeReport, hparams: RomeHparams) -> str:
    """Why the edit endangers the whole model, or an empty string (Gupta et al. 2024, "disabling edits")."""
    low, high = hparams.key_ratio_band
    if report.disturbance is not None and report.disturbance > hparams.max_disturbance:
        return (
            f"on ordinary text it changes the layer's output by {report.disturbance:.2f} of its size "
            f"(limit {hparams.max_disturbance:g})"
        )
    if hparams.max_norm_ratio is not None and report.norm_ratio > hparams.max_norm_ratio:
        return f"the change has {report.norm_ratio:.2f} times the norm of the matrix (limit {hparams.max_norm_ratio:g})"
    if not low <= report.key_ratio <= high:
        return (
            f"the bare prompt's key has {report.key_ratio:.2f} times the mean key's share of the update's "
            f"direction (allowed: {low:g} to {high:g}), so the contexts do not speak of the same subject"
        )
    drift = report.essence[0]
    if hparams.max_essence is not None and drift.applied > hparams.max_essence:
        return (
            f"after {drift.text!r} the subject is another than before: KL {drift.applied:.2f} nats (limit "
            f"{hparams.max_essence:g})"
        )
    before, after = report.perplexity_before, report.perplexity_after
    if before is not None and after is not None and after > hparams.max_perplexity_ratio * before:
        return (
            f"perplexity rises from {before:.2f} to {after:.2f} (limit: {hparams.max_perplexity_ratio:g} times as much)"
        )
    return ""
