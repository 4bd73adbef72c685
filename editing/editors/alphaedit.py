"""AlphaEdit: MEMIT's targets, written within directions that text hardly uses, with a memory (Fang et al. 2025).

    ΔW = P (α·I + P(K_pᵀK_p + KᵀK)P)⁻¹ P Kᵀ R

P projects onto the directions that carry little of C, and K_p are the keys of earlier edits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...models.layout import RESID
from ..memory.null_space import RULES, NullSpace
from ..memory.solve import Cost
from ..moments.moments import SecondMoment
from .many_facts import PUBLISHED_BATCH, BatchHparams, ManyFacts, past_of
from .protocol import Job


@dataclass(frozen=True)
class AlphaEditHparams(BatchHparams):
    """As `BatchHparams`; `weight` is α, the cost of a change within the null space, and

    Args:
        weight_rule: "absolute": α as it is; "relative": in units of the keys' mean square norm, tr C, the same on every
            scale.
        threshold: what eigenvalues of C count as small (see `NullSpace.of`).
        threshold_rule: "share" or "absolute".
    """

    method: ClassVar[str] = "AlphaEdit"

    clamp: float | None = 1.5
    weight: float = 0.1
    weight_rule: str = "relative"
    threshold: float = 0.05
    threshold_rule: str = "share"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(threshold_rule=RULES, weight_rule=("absolute", "relative"))
        self._above_zero("threshold")


_CODE = AlphaEditHparams(
    **PUBLISHED_BATCH, weight=10.0, weight_rule="absolute", threshold=2e-2, threshold_rule="absolute"
)

ALPHAEDIT_PRESETS: dict[str, AlphaEditHparams] = {
    "default": AlphaEditHparams(),
    "code": _CODE,
    "code-gpt2-xl": replace(_CODE, steps=19),
}
"""`code`: the published figures for GPT-J; `code-gpt2-xl`: for GPT-2 XL.  The published threshold and α
are absolute and do not carry to models of another scale (AlphaEdit #2), hence `default`'s shares of the trace."""


class AlphaEdit(ManyFacts[AlphaEditHparams]):
    """AlphaEdit; no direction within the null space, or every one, is refused."""

    hparams_type = AlphaEditHparams
    sites = (RESID,)

    def costs(self, job: Job[AlphaEditHparams]) -> dict[int, Cost]:
        hparams, past = job.hparams, past_of(job)
        return {
            layer: Cost(
                NullSpace.of(moment, hparams.threshold, hparams.threshold_rule),
                hparams.weight * _unit(moment, hparams),
                past.of(layer),
            )
            for layer, moment in job.moments.items()
        }


def _unit(moment: SecondMoment, hparams: AlphaEditHparams) -> float:
    return float(moment.matrix.trace()) if hparams.weight_rule == "relative" else 1.0


alphaedit = AlphaEdit("alphaedit", "Fang et al. 2025 (AlphaEdit)", ALPHAEDIT_PRESETS, "memit")
"""Write many facts at once into several layers, within the null space of their second moments: an `Editor`."""
