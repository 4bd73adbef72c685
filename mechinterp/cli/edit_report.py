"""What an edit did, in the order in which one asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .screen import Console

if TYPE_CHECKING:
    from ..editing import Edit


def print_report(console: Console, made: Edit) -> None:
    """What an edit did, in the order in which one asks."""
    from ..editing import BatchReport

    report, request = made.report, made.provenance.request
    if isinstance(report, BatchReport) or request is None:
        _print_batch(console, made)
        return
    verdict = "success" if report.success else f"not a success: {report.reason}"
    lines = [
        f"{request.prompt.text!r} -> {request.target!r}, layer {', '.join(map(str, made.layers))}: {verdict}",
        f"scored behind the prompt: {report.scored!r}",
        f"P(target) {report.target_before:.4f} -> {report.target_after:.4f}"
        + (
            f", P(answer) {report.answer_before:.4f} -> {report.answer_after:.4f}"
            if report.answer_before is not None
            else ""
        ),
        f"loss {report.losses[0].total:.3f} -> {report.losses[-1].total:.3f} in {report.steps} steps"
        + (f", delta clamped {report.clamped_steps} times" if report.clamped_steps else ""),
        f"|dW|/|W| {report.norm_ratio:.4f}; error at k* {report.error_at_mean_key:.3g}, at the bare prompt's key "
        f"{report.error_at_bare_key:.3g}",
    ]
    for drift in report.essence:
        lines.append(f"essence drift after {drift.text!r}: {drift.applied:.3f} nats")
    for line in (*lines, *report.warnings):
        console.print(line)


def _print_batch(console: Console, made: Edit) -> None:
    """What an edit by another editor than ROME did."""
    from ..editing import BatchReport

    report = made.report
    assert isinstance(report, BatchReport)
    succeeded = sum(outcome.success for outcome in report.outcomes)
    lines = [f"{made!r}: {succeeded} of {len(report.outcomes)} requests succeeded in {report.seconds:.1f} s"]
    lines += [report.reason] if report.reason else []
    for change in report.layers:
        text = "" if change.disturbance is None else f"; {change.disturbance:.3f} of its output on ordinary text"
        lines.append(f"layer {change.layer}: |dW|/|W| {change.norm_ratio:.4f}{text}")
    for line in (*lines, *report.warnings):
        console.print(line)
