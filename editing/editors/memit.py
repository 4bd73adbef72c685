"""MEMIT: many facts, several layers, least squares against everything the layers know (Meng et al. 2023).

Each fact's target z is a value of the residual after the last layer.  From the lowest layer up,

    ΔW = (λC + K_pᵀK_p + KᵀK)⁻¹ Kᵀ R,        R = (z − h)/(layers left),

writes the layer's share of what is still missing at its keys, which are read anew on the model as the layers before
have left it; K_p are the keys of earlier edits of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...models.layout import RESID
from .many_facts import PUBLISHED_BATCH, BatchHparams, ManyFacts


@dataclass(frozen=True)
class MemitHparams(BatchHparams):
    """As `BatchHparams`; the value is the residual after the last edited layer, so `clamp` counts in its norm."""

    method: ClassVar[str] = "MEMIT"

    clamp: float | None = 1.5


MEMIT_CODE = MemitHparams(**PUBLISHED_BATCH, weight=15000.0, remember=False)

MEMIT_PRESETS: dict[str, MemitHparams] = {
    "default": MemitHparams(),
    "code": MEMIT_CODE,
    "code-gpt2-xl": replace(MEMIT_CODE, steps=19, weight=20000.0),
}
"""`code`: what the published implementation computes with its figures for GPT-J (25 loss evaluations, hence 24 steps);
`code-gpt2-xl`: those for GPT-2 XL.  `default` was measured on the bundled model (README)."""


class Memit(ManyFacts[MemitHparams]):
    """MEMIT."""

    hparams_type = MemitHparams
    sites = (RESID,)


memit = Memit("memit", "Meng et al. 2023 (MEMIT)", MEMIT_PRESETS, "memit")
"""Write many facts at once into several layers: an `Editor`; call it with the model and the requests."""
