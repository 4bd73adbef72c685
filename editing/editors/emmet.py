"""EMMET: many facts in one layer, every value exactly or nearly so (Gupta et al. 2024).

ΔW = C₀⁻¹Kᵀ (K C₀⁻¹Kᵀ + λ_D·I)⁻¹ (V* − W K);        with one fact this is r-ROME
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...models.layout import RESID, VALUE
from .many_facts import PUBLISHED_BATCH, BatchHparams, ManyFacts
from .protocol import Job


@dataclass(frozen=True)
class EmmetHparams(BatchHparams):
    """As `BatchHparams`; `slack` is the published λ_D and counts from two facts on: one is written exactly.

    Args:
        aim: what the value is of, and `clamp` counts in the norm of: "value": the down-projection's output; "layer":
            the layer's output, as the published code has it, measured at the bare prompt.
    """

    method: ClassVar[str] = "EMMET"

    clamp: float | None = 4.0
    slack: float = 0.1
    aim: str = "value"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of(aim=tuple(_AIMS))


_AIMS = {"value": VALUE, "layer": RESID}


EMMET_PRESETS: dict[str, EmmetHparams] = {
    "default": EmmetHparams(),
    "code": EmmetHparams(**PUBLISHED_BATCH, aim="layer", weight=1.0, remember=False),
}
EMMET_PRESETS["code-gpt2-xl"] = replace(EMMET_PRESETS["code"], steps=19, weight=1000.0)
"""`code`: the published figures for GPT-J; `code-gpt2-xl`: for GPT-2 XL."""


class Emmet(ManyFacts[EmmetHparams]):
    """EMMET."""

    hparams_type = EmmetHparams
    one_layer = True
    sites = (VALUE,)

    def sites_of(self, hparams: EmmetHparams) -> tuple[str, ...]:
        return (_AIMS[hparams.aim],)

    def slack(self, job: Job[EmmetHparams]) -> float:
        return job.hparams.slack if len(job.requests) > 1 else 0.0


emmet = Emmet("emmet", "Gupta et al. 2024 (EMMET)", EMMET_PRESETS, "rome")
"""Write many facts at once into one layer: an `Editor`; call it with the model and the requests."""
