"""What happened during an edit, in figures: a failed or a disabling edit must not look like a good one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LossTerms:
    """One evaluation of the value's loss, in nats."""

    total: float
    nll: float
    kl: float
    weight_decay: float


@dataclass(frozen=True)
class EssenceDrift:
    """KL(edited || original) of the next token after a neutral sentence about the subject, in nats.

    Args:
        text: the sentence.
        hooked: with v* written at the subject (what the optimisation could see).
        applied: with the edit itself.
    """

    text: str
    hooked: float
    applied: float


@dataclass(frozen=True)
class RomeReport:
    """The course and the outcome of one ROME edit.

    Args:
        success: the target is now the model's own answer: each of its tokens the most probable one.
        reason: why not, or an empty string.
        losses: every evaluation of the loss, the unedited model's first.
        steps: optimiser steps taken.
        stopped_early: the loss fell below the limit before the steps ran out.
        clamped_steps: steps after which ‖δ‖ was cut back to its limit.
        delta_norm: ‖δ‖/‖v₀‖ at the end.
        target_before: P(all target tokens | prompt) of the unedited model.
        target_after: the same with the edit applied.
        answer_before: P(the prompt's answer); None where the prompt has none.
        answer_after: the same with the edit applied.
        error_at_mean_key: ‖recall(k̄) − v*‖/‖v*‖ of the edited memory.
        error_at_bare_key: the same at the key of the bare prompt.
        norm_ratio: ‖ΔW‖/‖W‖ (Frobenius).  It says little where C is ill-conditioned: good edits of small models reach
            tens, in directions that text hardly uses.
        disturbance: √(E‖ΔWᵀk‖² / E‖Wᵀk‖²) over the keys of the second moment: the share of the layer's output that
            changes on ordinary text; None with C = I, which knows no text.
        key_ratio: (k₀·u)/(k·u): how much of the direction u the bare prompt's key has, next to the key k that it was
            taken from; 1 where that is the bare prompt's own.
        essence: drift at neutral sentences about the subject.
        perplexity_before: per token, over the texts given for it; None where none were given.
        perplexity_after: the same with the edit applied.
        disabling: why the edit endangers the model as a whole, or an empty string.
        scored: the target as it was scored behind the prompt, with the space in front of it (" Paris").
        warnings: what may have gone wrong without stopping the edit.
    """

    success: bool
    reason: str
    losses: tuple[LossTerms, ...]
    steps: int
    stopped_early: bool
    clamped_steps: int
    delta_norm: float
    target_before: float
    target_after: float
    answer_before: float | None
    answer_after: float | None
    error_at_mean_key: float
    error_at_bare_key: float
    norm_ratio: float
    disturbance: float | None
    key_ratio: float
    essence: tuple[EssenceDrift, ...]
    perplexity_before: float | None
    perplexity_after: float | None
    disabling: str
    scored: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one request of an edit of several.

    Args:
        success: the target is now the model's own answer: each of its tokens the most probable one.
        reason: why not, or an empty string.
        target_before: P(all target tokens | prompt) without the edit.
        target_after: the same with it.
        answer_before: P(the prompt's answer); None where the prompt has none.
        answer_after: the same with the edit.
        nll_first: the target's NLL over the contexts when the value's optimisation began; None without a value step.
        nll_last: the same when it ended.
        scored: the target as it was scored behind the prompt, with the space in front of it (" Paris").
    """

    success: bool
    reason: str
    target_before: float
    target_after: float
    answer_before: float | None
    answer_after: float | None
    nll_first: float | None = None
    nll_last: float | None = None
    scored: str = ""


@dataclass(frozen=True)
class LayerChange:
    """How much of one matrix an edit changes.

    Args:
        layer: which.
        norm_ratio: ‖ΔW‖/‖W‖ (Frobenius).
        disturbance: √(E‖ΔWᵀk‖² / E‖Wᵀk‖²) over the keys of the second moment; None without one made from text.
        matrix: which of the layer's MLP: "down", "up" or "gate".
    """

    layer: int
    norm_ratio: float
    disturbance: float | None
    matrix: str = "down"


@dataclass(frozen=True)
class BatchReport:
    """The outcome of an edit by any editor but ROME, whose report says more of its one fact.

    Args:
        outcomes: one per request, in order.
        layers: what changed where.
        seconds: wall-clock time to make it, this report not counted.
        warnings: what may have gone wrong without stopping the edit.
        disabling: why the edit endangers the model as a whole, or an empty string.
    """

    outcomes: tuple[Outcome, ...]
    layers: tuple[LayerChange, ...]
    seconds: float
    warnings: tuple[str, ...] = ()
    disabling: str = ""

    @property
    def success(self) -> bool:
        """Every request succeeded."""
        return all(outcome.success for outcome in self.outcomes)

    @property
    def reason(self) -> str:
        """How many requests failed and why the first did, or an empty string."""
        failed = [outcome.reason for outcome in self.outcomes if not outcome.success]
        if not failed:
            return ""
        return failed[0] if len(self.outcomes) == 1 else f"{len(failed)} of {len(self.outcomes)} failed; {failed[0]}"
