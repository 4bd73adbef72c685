"""The losses of a patch of units on their pre-activations (Huang et al. 2023, eq. 5 to 8), and label smoothing.

A unit is to fire at its mistake (activation term) and to be still on memories (memory term).  The authors' code repeats
the edited example `repeats` times, so that of the largest 1,000 pairs of the memory term every pair counts as often.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...forwards.readout import log_softmax
from ..rows.target_rows import TargetRows

EXP, MARGIN = SHAPES = ("exp", "margin")


@dataclass(frozen=True)
class PatchTerms:
    """How the two terms are taken.

    Args:
        shape: "exp": the mean of the largest exponentials; "margin": the mean of what is above 0.
        act_top, mem_top, still_top: how many of the largest are averaged; 0: all.
        margins: m_a, m₁, m₂: of the activation, of memories against the mistake, of memories against 0.
    """

    shape: str = EXP
    act_top: int = 5
    mem_top: int = 1000
    still_top: int = 1000
    margins: tuple[float, float, float] = (0.0, 3.0, -3.0)

    def activation(self, mistakes: Float[Tensor, "row unit"]) -> Float[Tensor, ""]:
        """L_a of each unit's pre-activation at its mistake."""
        return self._mean(self.margins[0] - mistakes, self.act_top)

    def memory(self, mistakes: Float[Tensor, "row unit"], memories: Float[Tensor, "memory unit"]) -> Float[Tensor, ""]:
        """L_m: memories below a unit's own mistake, and below 0, each with its margin."""
        pairs = memories[:, None].expand(-1, len(mistakes), -1)
        below = self._mean(pairs - mistakes + self.margins[1], self.mem_top)
        return below + self._mean(pairs - self.margins[2], self.still_top)

    def _mean(self, gaps: Float[Tensor, "*n"], top: int) -> Float[Tensor, ""]:
        if self.shape == MARGIN:
            above = gaps[gaps > 0]
            return above.mean() if above.numel() else gaps.sum() * 0
        raised = gaps.exp().flatten()
        return raised.topk(min(top, raised.numel())).values.mean() if top else raised.mean()


def smoothed_nll(rows: TargetRows, logits: Float[Tensor, "row kept vocab"], smoothing: float) -> Float[Tensor, ""]:
    """Label-smoothed cross-entropy, the mean over all target tokens of all rows, in nats.

    (1 − e − e/(V−1)) NLL + e/(V−1) Σ over the vocabulary of −log p.
    """
    shift = rows.batch.width - logits.shape[1]
    log_probs = log_softmax(logits[rows.batch.rows[:, None], rows.targets.at - shift])
    nll = -log_probs.gather(-1, rows.targets.tokens[..., None])[..., 0]
    spread = smoothing / (log_probs.shape[-1] - 1)
    loss = (1 - smoothing - spread) * nll - spread * log_probs.sum(-1)
    return torch.where(rows.targets.real, loss, 0).sum() / rows.targets.real.sum()
