"""ROME's value v*: the output of the MLP that makes the model say the target, found by gradient descent.

A vector δ is added to the down-projection's output at the subject's last token, in every context at once.  It
minimises

    mean over contexts of −(1/|o|) Σ log P(oⱼ | context, prompt, o₁..oⱼ₋₁)        the target, teacher-forced
    + kl_factor · KL(edited || original) after a neutral sentence                 the subject stays what it is
    + weight decay of δ

(Meng et al. 2022, eq. 4).  v* = v₀ + δ, where v₀ is the bare prompt's own value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import MechinterpError
from ..models import Model
from ..patching.executor import forward
from ..patching.metrics import log_softmax
from ..prompts import Prompt
from .batch import Batch
from .contexts import BARE
from .hparams import RomeHparams
from .report import LossTerms
from .request import EditRequest


@dataclass(frozen=True, eq=False)
class Reading:
    """The unedited model at the subject's last token, in every context (the bare prompt first)."""

    keys: Float[Tensor, "context d_mlp"]
    values: Float[Tensor, "context d_model"]
    neutral: Float[Tensor, " vocab"]


@dataclass(frozen=True, eq=False)
class Value:
    """v* and how it was found."""

    v0: Float[Tensor, " d_model"]
    delta: Float[Tensor, " d_model"]
    losses: tuple[LossTerms, ...]
    steps: int
    stopped_early: bool
    clamped_steps: int

    @property
    def v_star(self) -> Float[Tensor, " d_model"]:
        """The value to be inserted."""
        return self.v0 + self.delta


class ValueProblem:
    """The rows, positions and loss of one request at one layer.

    Rows 0 to n−1 are the prompt in the n contexts, followed by all target tokens but the last; row n is the
    neutral sentence.
    """

    def __init__(
        self, model: Model, request: EditRequest, layer: int, contexts: Sequence[str], hparams: RomeHparams
    ) -> None:
        subject = request.subject
        prompts = [Prompt(context.replace(BARE, request.prompt.template), subject) for context in contexts]
        self.model = model
        self.hparams = hparams
        self.target = model.answer_ids(request.prompt.text, request.target)
        self.batch = Batch.of(
            model,
            [*prompts, Prompt(hparams.kl_template, subject)],
            [*[self.target[:-1]] * len(prompts), ()],
        )
        self._key_hook = model.layout.key_hook(layer)
        self._value_hook = model.layout.value_hook(layer)
        # Only the tokens from the subject's last one on can see δ, and the rest is computed once.
        tail = self.batch.from_subject(model)
        self._tail: Batch = self.batch
        self._past: dict[str, Any] | None = None
        if tail is not None:
            self._tail, self._past = tail
        last = self._tail.subject if hparams.kl_position == "subject" else self._tail.end
        self._neutral = int(last[-1])
        first = min(int(self._tail.end[:-1].min()), self._neutral)
        self._keep = self._tail.keep_from(first)
        self._shift = int(self._tail.ids.shape[1]) - self._keep

    def read(self) -> Reading:
        """Keys, values and the neutral distribution of the unedited model, in one forward."""
        hooks = (self._key_hook, self._value_hook)
        out = forward(self.model, self._tail.ids, (), hooks, keep=self._keep, past=self._past)
        return Reading(
            keys=self._tail.at_subject(out.cache[self._key_hook])[:-1],
            values=self._tail.at_subject(out.cache[self._value_hook])[:-1],
            neutral=log_softmax(out.logits[-1, self._neutral - self._shift]),
        )

    def terms(
        self, delta: Float[Tensor, " d_model"], reading: Reading
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """NLL, KL and weight-decay term at δ, with gradients."""
        write = self._tail.add_at_subject(self._value_hook, delta)
        logits = forward(self.model, self._tail.ids, (write,), keep=self._keep, grad=True, past=self._past).logits
        nll = -self._target_log_probs(logits).mean(1).mean()
        neutral = log_softmax(logits[-1, self._neutral - self._shift])
        kl = self.hparams.kl_factor * (neutral.exp() * (neutral - reading.neutral)).sum()
        return nll, kl, self._weight_decay(delta, reading.values[0].to(delta.dtype).norm())

    def _target_log_probs(self, logits: Float[Tensor, "row kept vocab"]) -> Float[Tensor, "context token"]:
        target: Int[Tensor, " token"] = torch.tensor(self.target, device=logits.device)
        steps = torch.arange(len(self.target), device=logits.device)
        at = self._tail.end[:-1, None] + steps - self._shift
        log_probs = log_softmax(logits[self._tail.rows[:-1, None], at])
        return log_probs.gather(-1, target.expand(log_probs.shape[:2])[..., None])[..., 0]

    def _weight_decay(self, delta: Float[Tensor, " d_model"], scale: Float[Tensor, ""]) -> Float[Tensor, ""]:
        rule, factor = self.hparams.weight_decay_rule, self.hparams.weight_decay
        if rule == "norm":
            return factor * delta.norm() / scale**2
        if rule == "squared":
            return factor * delta.square().sum() / scale**2
        return delta.new_zeros(())


def optimise(problem: ValueProblem, reading: Reading, *, on_evaluation: Callable[[int], None] | None = None) -> Value:
    """Minimise the loss by Adam from δ = 0.

    Args:
        problem: rows and loss.
        reading: the unedited model.
        on_evaluation: called with 1 after each evaluation of the loss.

    Raises:
        MechinterpError: the loss is NaN or infinite.
    """
    hparams = problem.hparams
    v0 = reading.values[0]
    v0 = v0 if v0.dtype == torch.float64 else v0.float()
    limit = None if hparams.clamp is None else hparams.clamp * float(v0.norm())
    delta = torch.zeros_like(v0, requires_grad=True)
    decay = hparams.weight_decay if hparams.weight_decay_rule == "adam" else 0.0
    unit = float(v0.norm()) / math.sqrt(v0.shape[0]) if hparams.lr_rule == "relative" else 1.0
    optimiser = torch.optim.Adam([delta], lr=hparams.lr * unit, weight_decay=decay)
    losses: list[LossTerms] = []
    steps = clamped = 0
    while True:
        with torch.enable_grad():
            nll, kl, weight_decay = problem.terms(delta, reading)
            total = nll + kl + weight_decay
        losses.append(LossTerms(*(float(term.detach()) for term in (total, nll, kl, weight_decay))))
        if not math.isfinite(losses[-1].total):
            raise MechinterpError(
                f"the loss became {losses[-1].total} after {steps} steps; lower lr (it is {hparams.lr})"
            )
        if on_evaluation is not None:
            on_evaluation(1)
        stopped = losses[-1].total < hparams.stop_loss or losses[-1].nll < hparams.stop_nll
        if stopped or steps == hparams.steps:
            break
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        steps += 1
        length = float(delta.detach().norm())
        if limit is not None and length > limit:
            clamped += 1
            with torch.no_grad():
                delta.mul_(limit / length)
    return Value(v0, delta.detach(), tuple(losses), steps, stopped, clamped)
