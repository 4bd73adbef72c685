"""Judging an edit before it is handed out: did it succeed, and does it endanger the model?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from ...facts.prompts import Prompt
from ...models.model import Model
from ..edits.active import draft
from ..edits.factors import Factors
from ..edits.report import EssenceDrift, RomeReport
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

_BARELY = 0.1
"""An optimisation that lowers the target's NLL by less than this share has not moved."""


@dataclass(frozen=True)
class RomeLimits:
    """Beyond which an edit of one fact is called disabling (Gupta et al. 2024).

    Args:
        disturbance: an edit that changes more than this share of the layer's output on ordinary text is refused.
        norm_ratio: so is one with ‖ΔW‖/‖W‖ above this; None: any.
        key_ratio_band: so is one whose (k₀·u)/(k·u) lies outside this band, k the key that u was taken from.
        essence: so is one after which KL(edited || original) after the neutral sentence about the subject exceeds this
            many nats; None: any.
        perplexity_ratio: so is one that multiplies the perplexity of given texts by more than this.
    """

    disturbance: float = 1.0
    norm_ratio: float | None = None
    key_ratio_band: tuple[float, float] = (0.3, 3.0)
    essence: float | None = 5.0
    perplexity_ratio: float = 1.5

    def of_ratio(self, key_ratio: float) -> str:
        """Why an edit of this key ratio is disabling, or an empty string."""
        low, high = self.key_ratio_band
        if low <= key_ratio <= high:
            return ""
        return (
            f"the bare prompt's key has {key_ratio:.2f} times the share of the update's direction that the key has "
            f"which it was taken from (allowed: {low:g} to {high:g}), so the contexts do not speak of the same subject"
        )


def judge_one(
    model: Model,
    memory: LinearMemory,
    value: Value,
    factors: Factors,
    hparams: ValueHparams,
    *,
    along: Float[Tensor, " d_mlp"] | None = None,
    limits: RomeLimits | None = None,
    perplexity_texts: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> RomeReport:
    """The full report of an edit of one fact, every figure "after" taken with the edit applied.

    Args:
        model: the model, with the edits on that were on when this one was made.
        memory: the layer's, before the edit.
        value: what was inserted; it knows its request and its layer.
        factors: the change.
        hparams: of the value's optimisation.
        along: the key that the direction u was taken from; default: the mean key over the value's contexts.
        limits: beyond which it is disabling; default: `RomeLimits()`.
        perplexity_texts: texts whose perplexity is taken before and after.
        warnings: that are known already.
    """
    request, layer = value.request, value.layer
    prompt, subject = request.prompt, request.subject
    asked = [(prompt, request.target)] + ([(prompt, prompt.answer)] if prompt.answer is not None else [])
    templates = dict.fromkeys((hparams.kl_template, *NEUTRAL_TEMPLATES))
    neutral = [Prompt(template, subject) for template in templates]

    before = completions(model, asked)
    original = next_token_log_probs(model, neutral)
    hooked = kl_divergence(next_token_log_probs(model, neutral, layer=layer, delta=value.delta), original)
    perplexity_before = perplexity(model, perplexity_texts) if perplexity_texts else None
    with draft(model, {layer: factors}):
        after = completions(model, asked)
        applied = kl_divergence(next_token_log_probs(model, neutral), original)
        perplexity_after = perplexity(model, perplexity_texts) if perplexity_texts else None

    bare, mean = value.keys[0].double(), value.keys.double().mean(0)
    u = factors.u[0].double().to(bare.device)
    direction = mean if along is None else along.to(mean)
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
        key_ratio=float((bare @ u) / (direction @ u)),
        essence=tuple(
            EssenceDrift(sentence.text, float(hooked[i]), float(applied[i])) for i, sentence in enumerate(neutral)
        ),
        perplexity_before=perplexity_before,
        perplexity_after=perplexity_after,
        disabling="",
        scored=model.continuation(prompt, request.target).text,
        warnings=(*warnings, *ill_suited(value, hparams)),
    )
    return replace(report, disabling=_disabling(report, limits or RomeLimits()))


def ill_suited(value: Value, hparams: ValueHparams) -> tuple[str, ...]:
    """What the report says where a learning rate without unit does not suit the model's values."""
    if hparams.lr_rule != "absolute" or hparams.clamp is None or value.clamped_steps <= value.steps // 2:
        return ()
    step = hparams.lr * math.sqrt(value.v0.numel()) / float(value.v0.norm())
    return (
        f"the value was held at its limit of {hparams.clamp:g} times its own norm in {value.clamped_steps} of "
        f"{value.steps} steps: each step of the absolute learning rate {hparams.lr:g} is {step:.2g} times that norm "
        "here, so these figures do not suit this model; take lr_rule='relative', as preset `default` has it",
    )


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


def _disabling(report: RomeReport, limits: RomeLimits) -> str:
    """Why the edit endangers the whole model, or an empty string (Gupta et al. 2024, "disabling edits")."""
    if report.disturbance is not None and report.disturbance > limits.disturbance:
        return (
            f"on ordinary text it changes the layer's output by {report.disturbance:.2f} of its size "
            f"(limit {limits.disturbance:g})"
        )
    if limits.norm_ratio is not None and report.norm_ratio > limits.norm_ratio:
        return f"the change has {report.norm_ratio:.2f} times the norm of the matrix (limit {limits.norm_ratio:g})"
    if wrong := limits.of_ratio(report.key_ratio):
        return wrong
    drift = report.essence[0]
    if limits.essence is not None and drift.applied > limits.essence:
        return (
            f"after {drift.text!r} the subject is another than before: KL {drift.applied:.2f} nats (limit "
            f"{limits.essence:g})"
        )
    before, after = report.perplexity_before, report.perplexity_after
    if before is not None and after is not None and after > limits.perplexity_ratio * before:
        return f"perplexity rises from {before:.2f} to {after:.2f} (limit: {limits.perplexity_ratio:g} times as much)"
    return ""
