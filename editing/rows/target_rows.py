"""Prompts with their targets fed after them, and the log-probability of each target token where it is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...facts.prompts import Prompt
from ...models.model import Model
from ...patching.plain.metrics import log_softmax
from .padded import Batch


@dataclass(frozen=True, eq=False)
class TargetRows:
    """One row per prompt.

    Args:
        batch: the prompts, each followed by its target tokens but the last.
        tokens: target tokens, padded on the right.
        at: the position that predicts each of them.
        real: which of them are no padding.
    """

    batch: Batch
    tokens: Int[Tensor, "row token"]
    at: Int[Tensor, "row token"]
    real: Bool[Tensor, "row token"]

    @staticmethod
    def of(
        model: Model, prompts: Sequence[Prompt], targets: Sequence[Sequence[int]], *, forced: bool = True
    ) -> TargetRows:
        """Tokenise and pad.

        Args:
            model: the model.
            prompts: the sentences.
            targets: token ids of what should follow each.
            forced: feed the target and score each token after those before it; False: feed nothing and score all of
                them after the prompt's last token (the published fine-tuning baseline, wrong beyond one token).

        Raises:
            UsageError: a row longer than the model's context, or a subject that is not found.
        """
        batch = Batch.of(model, prompts, [target[:-1] for target in targets] if forced else None)
        lengths = torch.tensor([len(target) for target in targets], device=model.device)
        step = torch.arange(int(lengths.max()), device=model.device)
        tokens = torch.zeros(len(targets), len(step), dtype=torch.long)
        for row, target in enumerate(targets):
            tokens[row, : len(target)] = torch.tensor(target)
        real = step < lengths[:, None]
        at = batch.end[:, None] + (step * real if forced else torch.zeros_like(real, dtype=torch.long))
        return TargetRows(batch, tokens.to(model.device), at, real)

    @property
    def keep(self) -> int:
        """How many last positions must get logits."""
        return self.batch.keep_from(int(self.batch.end.min()))

    def log_probs(self, logits: Float[Tensor, "row kept vocab"]) -> Float[Tensor, "row token"]:
        """Log-probability of each target token, zero behind a target's end.

        Args:
            logits: of the last `keep` positions.
        """
        shift = self.batch.width - logits.shape[1]
        found = log_softmax(logits[self.batch.rows[:, None], self.at - shift])
        return found.gather(-1, self.tokens[..., None])[..., 0] * self.real

    def nll(self, logits: Float[Tensor, "row kept vocab"]) -> Float[Tensor, " row"]:
        """Mean negative log-probability per target token, in nats."""
        return -self.log_probs(logits).sum(-1) / self.real.sum(-1)

    def of_rows(self, rows: Int[Tensor, " kept"]) -> TargetRows:
        """Some of the rows."""
        return TargetRows(self.batch.of_rows(rows), self.tokens[rows], self.at[rows], self.real[rows])
