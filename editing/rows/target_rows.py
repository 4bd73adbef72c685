"""Prompts with their targets fed after them, and the log-probability of each target token where it is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from ...facts.prompts import Prompt
from ...forwards.scored_tokens import ScoredTokens
from ...forwards.unembedding import Logits
from ...models.model import Model
from .padded import Batch


@dataclass(frozen=True, eq=False)
class TargetRows:
    """One row per prompt.

    Args:
        batch: the prompts, each followed by its target tokens but the last.
        targets: the target tokens, and where each is predicted.
    """

    batch: Batch
    targets: ScoredTokens

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
        return TargetRows(batch, ScoredTokens.after(batch.end, targets, forced=forced))

    @property
    def keep(self) -> int:
        """How many last positions must get logits."""
        return self.batch.keep_from(int(self.batch.end.min()))

    def log_probs(self, logits: Logits) -> Float[Tensor, "row token"]:
        """Log-probability of each target token, zero behind a target's end.

        Args:
            logits: of the last `keep` positions.
        """
        return self.targets.log_probs(logits, self.batch.width)

    def nll(self, logits: Logits) -> Float[Tensor, " row"]:
        """Mean negative log-probability per target token, in nats."""
        return self.targets.nll(logits, self.batch.width)

    def of_rows(self, rows: Int[Tensor, " kept"]) -> TargetRows:
        """Some of the rows."""
        return TargetRows(self.batch.of_rows(rows), self.targets.of_rows(rows))
