"""Right-padded batches: sentences with the tokens fed after them, and where each is to be written and scored.

In a causal model padding on the right changes nothing at the real positions, so no mask and no position ids
are needed, whatever the tokenizer's own padding side.  An encoder gets a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...facts.prompts import Prompt
from ...models.asking import PromptEnds
from ...models.model import Model
from ...models.stacks import DECODER
from ...patching.plain.executor import HookWrite


@dataclass(frozen=True, eq=False)
class Batch:
    """Sentences about subjects, each with the tokens that are fed after it.

    Args:
        ids: token ids, padded on the right.
        subject: position of each subject's last token.
        end: position of each sentence's last token, the fed tokens not counted: what comes next is predicted there.
        length: how many of each row's tokens are real.
        decoder: of an encoder-decoder, whose `ids` are the encoder's: the decoder's start with the fed tokens after it,
            padded on the right; `end` is then the start's last token.
    """

    ids: Int[Tensor, "row pos"]
    subject: Int[Tensor, " row"]
    end: Int[Tensor, " row"]
    length: Int[Tensor, " row"]
    decoder: Int[Tensor, "row fed"] | None = None

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
            MechinterpError: the decoder of an encoder-decoder, which sees no subject.
        """
        if model.layout.stack == DECODER:
            raise MechinterpError(
                f"the subject's tokens are in the encoder of {model.name}, so its decoder has no key of a subject; "
                "edit the encoder (load the model without stack='decoder')"
            )
        found = [model.tokenise(prompt) for prompt in prompts]
        inputs = [model.inputs(t.ids, more) for t, more in zip(found, fed or [()] * len(found), strict=True)]
        rows, decoder = [row for row, _ in inputs], [start for _, start in inputs]
        longest = max(len(row) for row in rows)
        if longest > model.n_ctx:
            raise UsageError(
                f"{prompts[0].text[:60]!r} makes a row of {longest} tokens with its context and target; "
                f"{model.name} takes at most {model.n_ctx}"
            )
        subject = torch.tensor([t.subject[1] - 1 for t in found])
        end = torch.tensor([(len(model.start) or len(t.ids)) - 1 for t in found])
        length = torch.tensor([len(row) for row in rows])
        parts = [part.to(model.device) for part in (_padded(rows), subject, end, length)]
        if model.is_encoder_decoder:
            parts.append(_padded(decoder).to(model.device))
        return Batch(*parts)

    def of_rows(self, rows: Int[Tensor, " kept"]) -> Batch:
        """Some of the rows."""
        decoder = None if self.decoder is None else self.decoder[rows]
        return Batch(self.ids[rows], self.subject[rows], self.end[rows], self.length[rows], decoder)

    @property
    def given(self) -> dict[str, Tensor]:
        """What a forward of `ids` takes as its `past`: nothing, or the decoder's tokens and the encoder's mask."""
        if self.decoder is None:
            return {}
        real = torch.arange(self.ids.shape[1], device=self.ids.device) < self.length[:, None]
        return {"decoder_ids": self.decoder, "attention_mask": real.long()}

    @property
    def prompts(self) -> PromptEnds | None:
        """Where each row's sentence ends; None for an encoder-decoder, whose encoder sees nothing else."""
        return None if self.decoder is not None else PromptEnds(self.end)

    @property
    def width(self) -> int:
        """How many positions can be scored."""
        return int((self.ids if self.decoder is None else self.decoder).shape[1])

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
        return self.width - first


def _padded(rows: Sequence[Sequence[int]]) -> Int[Tensor, "row pos"]:
    ids = torch.zeros(len(rows), max(len(row) for row in rows), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids
