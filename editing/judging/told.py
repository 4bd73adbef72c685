"""Reports that say how the optimisation of each request went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..edits.report import BatchReport, RomeReport


@dataclass(frozen=True)
class Went:
    """How training went for one request.

    Args:
        first: the NLL per target token before the first step, in nats.
        last: the same after the last one.
        steps: steps taken.
    """

    first: float
    last: float
    steps: int

    @staticmethod
    def of(losses: Sequence[float], stop_loss: float = 0.0) -> Went:
        """From the loss before each step and after the last; a request below the limit takes no further step."""
        taken = next((step for step, loss in enumerate(losses) if loss < stop_loss), len(losses) - 1)
        return Went(losses[0], losses[-1], taken)


def told(report: BatchReport | RomeReport, went: Sequence[Went | None]) -> BatchReport:
    """A report with how training went for each request; None where nothing was trained."""
    assert isinstance(report, BatchReport)
    outcomes = []
    for outcome, one in zip(report.outcomes, went, strict=True):
        if one is None:
            outcomes.append(outcome)
            continue
        words = f"; {one.steps} steps brought its NLL from {one.first:.3f} to {one.last:.3f}"
        reason = outcome.reason + words if outcome.reason else ""
        outcomes.append(replace(outcome, reason=reason, nll_first=one.first, nll_last=one.last))
    return replace(report, outcomes=tuple(outcomes))
