"""Hyper-parameters of a value's optimisation, which many editors share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import UsageError
from ...given import whole
from ..hyperparameters import LR_RULES, Hparams
from ..rows.contexts import PLAIN_CONTEXTS, check_contexts

KL_POSITIONS = ("subject", "last")
WEIGHT_DECAYS = ("norm", "squared", "adam")
PUBLISHED: dict[str, Any] = {
    "lr": 0.5, "lr_rule": "absolute", "stop_nll": 0.0, "weight_decay": 0.5, "weight_decay_rule": "norm",
    "kl_factor": 0.0625, "kl_position": "subject", "max_essence": None, "value_contexts": (),
}  # fmt: skip
"""What the published code of ROME has, and what editors after it took over; it looks at no drift."""


@dataclass(frozen=True)
class ValueHparams(Hparams):
    """How the value that makes the model say a target is found (`values_of`).

    Args:
        steps: optimiser steps at most; the loss is evaluated once more than that.
        lr: learning rate of Adam.  Each of its first steps has about the length lr·√d_model.
        lr_rule: "absolute": as it is, whatever the size of the model's values; "relative": in units of ‖v₀‖/√d_model,
            so that a step is about that share of ‖v₀‖ on every model.
        stop_loss: no further step once the total loss is below this (nats).
        stop_nll: no further step once the target's NLL is below this (nats); 0: only the total loss counts.  An easy
            fact then gets a small edit, and a hard one the steps it needs.
        weight_decay: factor of the weight-decay term.
        weight_decay_rule: "norm": ‖δ‖/‖v₀‖² (as the published code has it; the gradient does not vanish with
            δ and the term grows as the model's scale shrinks); "squared": (‖δ‖/‖v₀‖)², the same on every
            scale; "adam": no term in the loss, Adam's own decay of δ.
        kl_factor: factor of the essence-drift term KL(edited || original).
        kl_template: the neutral sentence for that term.
        kl_position: where its next-token distribution is taken: "last" after the whole sentence, "subject" at
            the subject's last token (then what follows the subject in the sentence has no effect).
        settled_kl: once the target is the model's first choice in every context, its NLL counts a tenth from the next
            evaluation on, and no further step is taken where the KL term is at most this (nats); None: no such rule
            (it is that of PMET's code).
        clamp: ‖δ‖ is cut back to this multiple of ‖v₀‖ after each step; None: never.
        value_contexts: templates under which the value is sought, the bare "{}" first; empty, or where the vocabulary
            cannot spell them: sampled ones.  What a caller passes as `contexts` goes before.
        key_contexts: templates over which keys are averaged, the bare "{}" first; empty: those of the value.
        context_lengths: (how many, length) of the sampled prefixes; a length counts the token sampling starts
            from.
        context_starts: words that sampled contexts begin with, in turn; empty: they begin at BOS.

    Raises:
        UsageError: a value outside its range.
    """

    steps: int = 40
    lr: float = 0.25
    lr_rule: str = "relative"
    stop_loss: float = 0.05
    stop_nll: float = 0.05
    weight_decay: float = 0.05
    weight_decay_rule: str = "squared"
    kl_factor: float = 0.25
    kl_template: str = "{} is a"
    kl_position: str = "last"
    settled_kl: float | None = None
    clamp: float | None = 4.0
    value_contexts: tuple[str, ...] = PLAIN_CONTEXTS
    key_contexts: tuple[str, ...] = ()
    context_lengths: tuple[tuple[int, int], ...] = ((10, 5), (10, 10))
    context_starts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._one_of(weight_decay_rule=WEIGHT_DECAYS, kl_position=KL_POSITIONS, lr_rule=LR_RULES)
        self._above_zero("lr", "clamp", "settled_kl")
        self._not_negative("steps", "weight_decay", "kl_factor", "stop_loss", "stop_nll")
        if not isinstance(self.kl_template, str) or self.kl_template.count("{}") != 1:
            raise UsageError(f"kl_template is {self.kl_template!r}; write exactly one '{{}}' where the subject belongs")
        for name in ("value_contexts", "key_contexts"):
            templates = getattr(self, name)
            if templates == () or templates == []:
                continue
            object.__setattr__(self, name, check_contexts(templates, name))
        try:
            pairs = [(whole(count, "a count"), whole(length, "a length")) for count, length in self.context_lengths]
        except (TypeError, ValueError) as error:
            raise UsageError(f"context_lengths is {self.context_lengths!r:.60}; give pairs (count, length)") from error
        if any(count < 1 or length < 2 for count, length in pairs):
            raise UsageError(f"context_lengths is {self.context_lengths}; counts start at 1 and lengths at 2")
