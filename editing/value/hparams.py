"""Hyper-parameters of a value's optimisation, which many editors share, and how any of them is checked and changed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from ...errors import UsageError

KL_POSITIONS = ("subject", "last")
LR_RULES = ("absolute", "relative")
WEIGHT_DECAYS = ("norm", "squared", "adam")


@dataclass(frozen=True)
class Hparams:
    """Frozen figures with ranges; `method` names whose they are in messages."""

    method: ClassVar[str] = "this editor"

    def with_(self, **changes: object) -> Self:
        """These hyper-parameters with some of them changed.

        Raises:
            UsageError: an unknown name (the known ones are listed), or a value outside its range.
        """
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise UsageError(f"{name!r} is no hyper-parameter of {self.method}; they are {', '.join(known)}")
        return replace(self, **changes)

    def plain(self) -> dict[str, Any]:
        """As JSON gives them back: tuples become lists."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    def _one_of(self, **allowed: tuple[str, ...]) -> None:
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}")

    def _above_zero(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} is {value}; it must be above 0")

    def _not_negative(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")


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
        clamp: ‖δ‖ is cut back to this multiple of ‖v₀‖ after each step; None: never.
        context_lengths: (how many, length) of the sampled prefixes; a length counts the token sampling starts
            from.

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
    clamp: float | None = 4.0
    context_lengths: tuple[tuple[int, int], ...] = ((10, 5), (10, 10))

    def __post_init__(self) -> None:
        self._one_of(weight_decay_rule=WEIGHT_DECAYS, kl_position=KL_POSITIONS, lr_rule=LR_RULES)
        self._above_zero("lr", "clamp")
        self._not_negative("steps", "weight_decay", "kl_factor", "stop_loss", "stop_nll")
        if self.kl_template.count("{}") != 1:
            raise UsageError(f"kl_template is {self.kl_template!r}; write exactly one '{{}}' where the subject belongs")
        if any(count < 1 or length < 2 for count, length in self.context_lengths):
            raise UsageError(f"context_lengths is {self.context_lengths}; counts start at 1 and lengths at 2")
