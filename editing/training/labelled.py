"""Texts with their answers as rows of tokens, and the losses that networks are trained by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Prompt
from ...forwards.readout import log_softmax
from ...models.model import Model
from ...patching.plain.executor import forward


@dataclass(frozen=True, eq=False)
class Labelled:
    """Prompts, each followed by all tokens of its answer, padded on the right.

    Args:
        ids: token ids.
        real: which of them are no padding.
        scored: which of them are answers; each is predicted by the position before it.
    """

    ids: Int[Tensor, "row pos"]
    real: Bool[Tensor, "row pos"]
    scored: Bool[Tensor, "row pos"]

    @staticmethod
    def of(model: Model, pairs: Sequence[tuple[Prompt, str]]) -> Labelled:
        """Tokenise prompts with their answers.

        Raises:
            UsageError: a row longer than the model's context.
        """
        rows = [(model.tokenise(prompt).ids, model.answer_ids(prompt, answer)) for prompt, answer in pairs]
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        if width > model.n_ctx:
            raise UsageError(f"a prompt with its answer has {width} tokens; {model.name} takes at most {model.n_ctx}")
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        real, scored = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
        for i, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[i, :end] = torch.tensor([*prompt, *answer])
            real[i, :end], scored[i, len(prompt) : end] = True, True
        return Labelled(ids.to(model.device), real.to(model.device), scored.to(model.device))

    def logits(self, model: Model, *, grad: bool) -> Float[Tensor, "row pos vocab"]:
        """What the model says at every position, with whatever is on."""
        return forward(model, self.ids, keep=int(self.ids.shape[1]), grad=grad).logits

    def nll(self, logits: Float[Tensor, "row pos vocab"]) -> Float[Tensor, ""]:
        """Mean negative log-probability over all answer tokens of all rows, in nats."""
        found = log_softmax(logits[:, :-1]).gather(-1, self.ids[:, 1:, None])[..., 0]
        return -found[self.scored[:, 1:]].mean()

    @property
    def predicting(self) -> Bool[Tensor, "row pos"]:
        """The positions that predict an answer's token."""
        return torch.nn.functional.pad(self.scored[:, 1:], (0, 1))

    def all_said(self, logits: Float[Tensor, "row pos vocab"]) -> float:
        """Share of rows whose answer tokens are all the most probable ones."""
        right = (logits[:, :-1].argmax(-1) == self.ids[:, 1:]) | ~self.scored[:, 1:]
        return float(right.all(1).double().mean())

    def kl(
        self,
        before: Float[Tensor, "row pos vocab"],
        after: Float[Tensor, "row pos vocab"],
        *,
        answers: bool = False,
    ) -> Float[Tensor, ""]:
        """KL(before || after) in nats, mean over all real tokens of all rows, or where answers are predicted alone."""
        counted = self.predicting if answers else self.real
        old, new = log_softmax(before[counted]), log_softmax(after[counted])
        return (old.exp() * (old - new)).sum(-1).mean()
