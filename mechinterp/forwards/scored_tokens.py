"""Answers in the rows of a forward: their tokens, and the position that predicts each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from .readout import Readout, read
from .unembedding import Logits


@dataclass(frozen=True, eq=False)
class ScoredTokens:
    """One answer per row.

    Args:
        tokens: of the answers, padded on the right.
        at: the position, in the whole row, that predicts each of them.
        real: which of them are no padding.
    """

    tokens: Int[Tensor, "row token"]
    at: Int[Tensor, "row token"]
    real: Bool[Tensor, "row token"]

    @staticmethod
    def after(ends: Int[Tensor, " row"], answers: Sequence[Sequence[int]], *, forced: bool = True) -> ScoredTokens:
        """Answers that begin behind these positions.

        Args:
            ends: the position of the last token before each answer.
            answers: their token ids.
            forced: each token is predicted after those before it, which are in the row; False: all of them at `ends`.
        """
        lengths = torch.tensor([len(answer) for answer in answers], device=ends.device)
        steps = torch.arange(int(lengths.max()), device=ends.device)
        tokens = torch.zeros(len(answers), len(steps), dtype=torch.long)
        for row, answer in enumerate(answers):
            tokens[row, : len(answer)] = torch.tensor(answer)
        real = steps < lengths[:, None]
        at = ends[:, None] + (steps * real if forced else torch.zeros_like(real, dtype=torch.long))
        return ScoredTokens(tokens.to(ends.device), at, real)

    @property
    def lengths(self) -> Int[Tensor, " row"]:
        """Tokens of each answer."""
        return self.real.sum(-1)

    def read(self, logits: Logits, width: int, *, top: bool = False) -> Readout:
        """Read the real tokens, one row after another.

        Args:
            logits: of the last positions of each row: [row, kept, vocab], or what they are made of.
            width: positions of a whole row.
            top: whether the most probable tokens in their places are wanted too.
        """
        shift = width - logits.shape[1]
        rows = torch.arange(len(self.at), device=self.at.device)[:, None].expand_as(self.at)
        found = logits[rows[self.real], (self.at - shift)[self.real]]
        tokens = self.tokens[self.real]
        return read(found, torch.arange(len(tokens), device=tokens.device), tokens, top=top)

    def padded(self, values: Shaped[Tensor, " real"], padding: float = 0.0) -> Shaped[Tensor, "row token"]:
        """What was read of the real tokens in their places, and behind each answer's end a number instead."""
        return values.new_full(self.real.shape, padding).masked_scatter(self.real, values)

    def log_probs(self, logits: Logits, width: int) -> Float[Tensor, "row token"]:
        """Log-probability of each token in nats, zero behind an answer's end; see `read`."""
        return self.padded(self.read(logits, width).log_probs)

    def nll(self, logits: Logits, width: int) -> Float[Tensor, " row"]:
        """Mean negative log-probability per token of each answer, in nats; see `read`."""
        return -self.log_probs(logits, width).sum(-1) / self.lengths

    def of_rows(self, rows: Int[Tensor, " kept"]) -> ScoredTokens:
        """Some of the rows; one may be taken several times."""
        return ScoredTokens(self.tokens[rows], self.at[rows], self.real[rows])
