"""Right-padded batches: sentences with the tokens fed after them, and where each is to be written and scored.

In a causal model padding on the right changes nothing at the real positions, so no mask and no position ids
are needed, whatever the tokenizer's own padding side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UsageError
from ..models import Model
from ..patching.executor import HookWrite
from ..prompts import Prompt


@dataclass(frozen=True, eq=False)
class Batch:
    """Sentences about subjects, each with the tokens that are fed after it.

    Args:
        ids: token ids, padded on the right.
        subject: position of each subject's last token.
        end: position of each sentence's last token, the fed tokens not counted.
        length: how many of each row's tokens are real.
    """

    ids: Int[Tensor, "row pos"]
    subject: Int[Tensor, " row"]
    end: Int[Tensor, " row"]
    length: Int[Tensor, " row"]

    @staticmethod
    def of(model: Model, prompts: Sequence[Prompt], fed: Sequence[Sequence[int]] | None = None) -> Batch:
        """Tokenise and pad.

        Args:
            model: the model.
            prompts: the sentences.
            fed: token ids fed after each (teacher forcing); default: none.

        Raises:
            UsageError: a sentence longer than the model's context, or a subject that is not found (see
                `spans`).
        """
        found = [model.tokenise(prompt) for prompt in prompts]
        rows = [[*t.ids, *more] for t, more in zip(found, fed or [()] * len(found), strict=True)]
        longest = max(len(row) for row in rows)
        if longest > model.n_ctx:
            raise UsageError(
                f"{prompts[0].text[:60]!r} makes a row of {longest} tokens with its context and target; "
                f"{model.name} takes at most {model.n_ctx}"
            )
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        subject = torch.tensor([t.subject[1] - 1 for t in found])
        end = torch.tensor([len(t.ids) - 1 for t in found])
        length = torch.tensor([len(row) for row in rows])
        return Batch(*(part.to(model.device) for part in (ids, subject, end, length)))

    def of_rows(self, rows: Int[Tensor, " kept"]) -> Batch:
        """Some of the rows."""
        return Batch(self.ids[rows], self.subject[rows], self.end[rows], self.length[rows])

    @property
    def rows(self) -> Int[Tensor, " row"]:
        """Row numbers."""
        return torch.arange(self.ids.shape[0], device=self.ids.device)

    def at_subject(self, activation: Float[Tensor, "row pos width"]) -> Float[Tensor, "row width"]:
        """An activation at each subject's last token."""
        return activation[self.rows, self.subject]

    def add_at_subject(self, hook: str, vectors: Float[Tensor, "*row width"]) -> HookWrite:
        """A vector added at each subject's last token: one for all, or one for each row."""
        values = vectors.expand(self.ids.shape[0], -1)
        return HookWrite(hook=hook, rows=self.rows, positions=self.subject, values=values, add=True)

    def keep_from(self, first: int) -> int:
        """How many last positions must get logits for `first` to be among them."""
        return int(self.ids.shape[1]) - first
