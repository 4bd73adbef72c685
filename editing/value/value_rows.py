"""The rows, positions and loss of many requests at once, each with a change of its own at its subject's last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...facts.prompts import Prompt
from ...forwards.readout import log_softmax
from ...forwards.scored_tokens import ScoredTokens
from ...models.model import Model
from ..edits.request import EditRequest
from ..rows.contexts import in_contexts
from ..rows.padded import Batch
from .hparams import ValueHparams
from .suffix import Suffix


@dataclass(frozen=True, eq=False)
class Reading:
    """The unedited model at the subject's last token of every request.

    Args:
        keys: in every context, the bare prompt first.
        values: at every site.
        neutral: log-probabilities after the neutral sentence.
    """

    keys: Float[Tensor, "fact context d_mlp"]
    values: Float[Tensor, "fact context site d_model"]
    neutral: Float[Tensor, "fact vocab"]

    def of_facts(self, kept: Bool[Tensor, " fact"]) -> Reading:
        """That of some of the requests."""
        return Reading(self.keys[kept], self.values[kept], self.neutral[kept])


@dataclass(frozen=True, eq=False)
class ValueRows:
    """What is run and scored for some requests.

    Each request has rows with its prompt in each context, followed by all target tokens but the last, and then one with
    the neutral sentence.

    Args:
        model: the model.
        suffix: the rows.
        layer: the layer that is changed.
        targets: the target tokens of each request in each context, and where each is predicted.
        hparams: what the loss consists of.
        way: what is left out of each forward (`suffix.WAYS`).
        facts: how many requests there are.
    """

    model: Model
    suffix: Suffix
    layer: int
    targets: ScoredTokens
    hparams: ValueHparams
    way: str
    facts: int

    @staticmethod
    def batch_of(
        model: Model, requests: Sequence[EditRequest], contexts: Sequence[str], hparams: ValueHparams
    ) -> tuple[Batch, list[tuple[int, ...]]]:
        """All rows of some requests, and the target tokens of each."""
        prompts: list[Prompt] = []
        fed: list[tuple[int, ...]] = []
        targets = []
        for request in requests:
            target = model.answer_ids(request.prompt, request.target)
            prompts += in_contexts(model, request.prompt, contexts, target[:-1])
            prompts.append(Prompt(hparams.kl_template, request.subject))
            fed += [*[target[:-1]] * len(contexts), ()]
            targets.append(target)
        return Batch.of(model, prompts, fed), targets

    @staticmethod
    def of(
        model: Model,
        requests: Sequence[EditRequest],
        layer: int,
        contexts: Sequence[str],
        hparams: ValueHparams,
        hooks: tuple[str, ...],
        way: str,
    ) -> ValueRows:
        """The rows of some requests."""
        batch, targets = ValueRows.batch_of(model, requests, contexts, hparams)
        suffix = Suffix.of(model, batch, hooks, way, group=len(contexts) + 1)
        ends = suffix.batch.end.view(len(targets), -1)[:, :-1]
        scored = ScoredTokens.after(ends.flatten(), [target for target in targets for _ in contexts])
        return ValueRows(model, suffix, layer, scored, hparams, way, len(targets))

    def __len__(self) -> int:
        return self.facts

    def of_facts(self, kept: Bool[Tensor, " fact"]) -> ValueRows:
        """Only some of the requests."""
        rows = self._by_fact(self.suffix.batch.rows)[kept].flatten()
        scored = torch.arange(len(self.targets.at), device=kept.device).view(len(self), -1)[kept].flatten()
        targets, count = self.targets.of_rows(scored), int(kept.sum())
        return replace(self, suffix=self.suffix.of_rows(rows), targets=targets, facts=count)

    def _by_fact(self, rows: Tensor) -> Tensor:
        return rows.view(len(self), -1, *rows.shape[1:])

    @property
    def _neutral(self) -> Int[Tensor, " fact"]:
        batch = self.suffix.batch
        # An encoder-decoder predicts nothing at the subject: what it says of it is what its decoder begins with.
        at_subject = self.hparams.kl_position == "subject" and batch.decoder is None
        last = batch.subject if at_subject else batch.end
        return self._by_fact(last)[:, -1]

    def _keep(self) -> tuple[int, int]:
        """How many last positions get logits, and what this takes off their numbers."""
        ends = self._by_fact(self.suffix.batch.end)[:, :-1].flatten()
        return self.suffix.keep_from(torch.cat([ends, self._neutral]))

    def _neutral_log_probs(self, logits: Float[Tensor, "row kept vocab"], shift: int) -> Float[Tensor, "fact vocab"]:
        facts = torch.arange(len(self), device=logits.device)
        return log_softmax(self._by_fact(logits)[facts, -1, self._neutral - shift])

    def _nll(self, logits: Float[Tensor, "row kept vocab"]) -> tuple[Float[Tensor, " fact"], Bool[Tensor, " fact"]]:
        """Mean negative log-probability of a target token, over the contexts of each request; and whether all target
        tokens are first choices."""
        in_contexts = self._by_fact(logits)[:, :-1].flatten(0, 1)
        found = self.targets.read(in_contexts, self.suffix.batch.width, top=True)
        nll = -self.targets.padded(found.log_probs).sum(-1) / self.targets.lengths
        first = self.targets.padded(found.log_probs.detach() >= found.top_log_probs.detach(), True)
        return nll.view(len(self), -1).mean(-1), first.view(len(self), -1).all(1)

    def read(self) -> tuple[ValueRows, Reading]:
        """The unedited model in one forward, and the same rows, which from then on need not run the layers below."""
        batch = self.suffix.batch
        keep, shift = self._keep()
        key_hook, hooks = self.model.layout.key_hook(self.layer), self.suffix.hooks
        suffix, out = self.suffix.first_run(self.model, self.layer, self.way, (key_hook, *hooks), keep=keep)
        values = torch.stack([batch.at_subject(out.cache[hook]) for hook in hooks], 1)
        keys = batch.at_subject(out.cache[key_hook])
        neutral = self._neutral_log_probs(out.logits, shift)
        return replace(self, suffix=suffix), Reading(
            self._by_fact(keys)[:, :-1], self._by_fact(values)[:, :-1], neutral
        )

    def terms(
        self, delta: Float[Tensor, "fact site d_model"], reading: Reading
    ) -> tuple[tuple[Float[Tensor, " fact"], Float[Tensor, " fact"], Float[Tensor, " fact"]], Bool[Tensor, " fact"]]:
        """NLL, KL and weight-decay term of each request at its δ, with gradients; and whether its target is settled."""
        per_row = delta.repeat_interleave(len(self.suffix.batch.ids) // len(self), 0)
        keep, shift = self._keep()
        logits = self.suffix.run(self.model, per_row, keep=keep, grad=True).logits
        nll, settled = self._nll(logits)
        neutral = self._neutral_log_probs(logits, shift)
        kl = self.hparams.kl_factor * (neutral.exp() * (neutral - reading.neutral)).sum(-1)
        return (nll, kl, self._weight_decay(delta, reading.values[:, 0].to(delta.dtype).norm(dim=-1))), settled

    def _weight_decay(
        self, delta: Float[Tensor, "fact site d_model"], scale: Float[Tensor, "fact site"]
    ) -> Float[Tensor, " fact"]:
        rule, factor = self.hparams.weight_decay_rule, self.hparams.weight_decay
        if rule == "norm":
            return (factor * delta.norm(dim=-1) / scale**2).sum(-1)
        if rule == "squared":
            return (factor * delta.square().sum(-1) / scale**2).sum(-1)
        return delta.new_zeros(len(delta))
