"""Hyper-parameters of UltraEdit, and the presets with the source of each figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..value.hparams import LR_RULES, Hparams


@dataclass(frozen=True)
class UltraHparams(Hparams):
    """How keys and gradients become a change.

    Args:
        lr: η.
        lr_rule: "absolute": as it is; "relative": in units of √mean(output²)/d_mlp, where the output is that of the
            layer at the tokens that are edited: η is then about the size of v next to that output, the same on models
            of every width and scale.
        ridge: what is added to HᵀH.
        warm_up: with fewer tokens seen than this, no coordinate's own mean and spread are known well enough: keys and
            gradients are then only scaled to unit root mean square.
        max_essence: an edit after which the mean KL(edited || original) after the neutral sentence about the subjects
            exceeds this many nats is refused as disabling; None: it is not measured.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "UltraEdit"

    lr: float = 1.5
    lr_rule: str = "relative"
    ridge: float = 1.0
    warm_up: int = 20
    max_essence: float | None = 5.0

    def __post_init__(self) -> None:
        self._one_of(lr_rule=LR_RULES)
        self._above_zero("lr", "ridge", "max_essence")
        self._not_negative("warm_up")


PRESETS: dict[str, UltraHparams] = {
    "default": UltraHparams(),
    "published": UltraHparams(lr=1e-6, lr_rule="absolute", warm_up=2, max_essence=None),
}
"""`published`: of GPT-J (layers 18 to 26, 100 requests at a time) in the code of UltraEdit (TMLR 2026).

`default` was measured on 50 facts of the bundled `atlas` at layer 6, alone and in one batch.  η = 1.2: ES 82 and 68,
PS 70 and 46, NS 69 and 89; η = 1.5: ES 96 and 86, PS 86 and 74, NS 44 and 78.  Lower layers are worse:
the method edits at the answer's token, where they do not yet know the subject.
"""
