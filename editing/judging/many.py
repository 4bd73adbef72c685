"""Judging an edit of many facts before it is handed out: which requests succeeded, and does it endanger the model?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ...errors import MechinterpError
from ...facts.prompts import Prompt
from ...models.model import Model
from ..edits.change import Change
from ..edits.report import BatchReport, LayerChange, Outcome, RomeReport
from ..edits.request import EditRequest
from ..edits.weights import WeightChange
from ..moments.moments import SecondMoment
from ..rows.completions import Completion, completions, kl_divergence, next_token_log_probs
from ..value.value import Value
from .change import weight_changes

_ROWS = 128
"""Prompts per forward."""


@dataclass(frozen=True)
class Limits:
    """Beyond which an edit is called disabling; one whose change is not finite always is.

    Args:
        disturbance: share of a layer's output on ordinary text that changes.
        essence: mean KL(edited || original) in nats after `template` about the subjects; None: not measured.
        template: the neutral sentence.
    """

    disturbance: float = 1.0
    essence: float | None = None
    template: str = "{} is a"


def judge_batch(
    model: Model,
    requests: Sequence[EditRequest],
    change: Change,
    *,
    seconds: float,
    moments: Mapping[int, SecondMoment] | None = None,
    values: Sequence[Value] | None = None,
    warnings: Sequence[str] = (),
    limits: Limits | None = None,
) -> BatchReport:
    """The report of an edit, every figure "after" taken with the edit applied.

    Args:
        model: the model, with the edits on that were on when this one was made.
        requests: what was asked for.
        change: what it does.
        seconds: how long it took.
        moments: second moments of the layers, to say how much ordinary text is disturbed.
        values: of the requests, to say how their optimisation went.
        warnings: that are known already.
        limits: beyond which it is disabling; default: `Limits()`.
    """
    bounds, known = limits or Limits(), moments or {}
    before = _completions(model, requests)
    neutral = [Prompt(bounds.template, request.subject) for request in requests]
    essence = None
    with model.alone(), change.on(model) as asked:
        after = _completions(asked, requests)
        edited = _neutral(asked, neutral) if bounds.essence is not None else None
    if edited is not None:
        essence = float(kl_divergence(edited, _neutral(model, neutral)).mean())
    outcomes = []
    for i, request in enumerate(requests):
        value = None if values is None else values[i]
        scored = model.continuation(request.prompt, request.target).text
        outcomes.append(_outcome(request, before[i], after[i], value, scored))
    layers = weight_changes(model, change, known) if isinstance(change, WeightChange) else ()
    disabling = _disabling(layers, essence, bounds)
    return BatchReport(tuple(outcomes), layers, seconds, tuple(warnings), disabling)


def refuse_disabling(report: BatchReport | RomeReport, name: str, *, allow: bool) -> None:
    """Raise instead of handing out an edit that endangers the model, unless that was asked for."""
    if report.disabling and not allow:
        raise MechinterpError(
            f"{name} would disable the model: {report.disabling}; pass allow_disabling=True to get it"
        )


@dataclass(frozen=True)
class _Said:
    """How the target and the answer of one request fare."""

    target: Completion
    answer: Completion | None = field(default=None)


def _completions(model: Model, requests: Sequence[EditRequest]) -> list[_Said]:
    asked = [(request.prompt, request.target) for request in requests]
    places = [i for i, request in enumerate(requests) if request.prompt.answer is not None]
    asked += [(requests[i].prompt, requests[i].prompt.answer or "") for i in places]
    found = [
        completion
        for start in range(0, len(asked), _ROWS)
        for completion in completions(model, asked[start : start + _ROWS])
    ]
    answers = dict(zip(places, found[len(requests) :], strict=True))
    return [_Said(found[i], answers.get(i)) for i in range(len(requests))]


def _neutral(model: Model, prompts: Sequence[Prompt]) -> torch.Tensor:
    parts = [next_token_log_probs(model, prompts[start : start + _ROWS]) for start in range(0, len(prompts), _ROWS)]
    return torch.cat(parts)


def _outcome(request: EditRequest, before: _Said, after: _Said, value: Value | None, scored: str) -> Outcome:
    reason = ""
    if not after.target.top:
        reason = (
            f"{request.prompt.text!r}: the target {request.target!r} is not the model's first choice after the edit "
            f"(P = {after.target.prob:.3g})"
        )
        if value is not None:
            reason += f"; its value brought the NLL from {value.losses[0].nll:.3f} to {value.losses[-1].nll:.3f}"
    return Outcome(
        success=after.target.top,
        reason=reason,
        target_before=before.target.prob,
        target_after=after.target.prob,
        answer_before=None if before.answer is None else before.answer.prob,
        answer_after=None if after.answer is None else after.answer.prob,
        nll_first=None if value is None else value.losses[0].nll,
        nll_last=None if value is None else value.losses[-1].nll,
        scored=scored,
    )


def _disabling(layers: Sequence[LayerChange], essence: float | None, limits: Limits) -> str:
    for change in layers:
        if not math.isfinite(change.norm_ratio):
            return f"the change of layer {change.layer} is not finite: ‖ΔW‖/‖W‖ is {change.norm_ratio:g}"
        if change.disturbance is not None and change.disturbance > limits.disturbance:
            return (
                f"on ordinary text it changes the output of layer {change.layer} by {change.disturbance:.2f} of its "
                f"size (limit {limits.disturbance:g})"
            )
    if essence is not None and limits.essence is not None and not essence <= limits.essence:
        return (
            f"after {limits.template!r} the subjects are others than before: KL {essence:.2f} nats on average (limit "
            f"{limits.essence:g})"
        )
    return ""
