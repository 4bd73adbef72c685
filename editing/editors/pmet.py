"""PMET: the value is sought together with one for attention, which is then thrown away (Li et al. 2023).

As MEMIT, but aiming at the MLP's own output at the last layer, sought together with a change of its attention output,
of which nothing is written; each layer takes what is missing divided by the root of the layers left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...models.layout import ATTN, MLP
from .many_facts import PUBLISHED_BATCH, BatchHparams, ManyFacts


@dataclass(frozen=True)
class PmetHparams(BatchHparams):
    """As `BatchHparams`; the value is the MLP's output at the last edited layer."""

    method: ClassVar[str] = "PMET"

    spread: str = "root"


PMET_PRESETS: dict[str, PmetHparams] = {
    "default": PmetHparams(),
    "code": PmetHparams(
        **(PUBLISHED_BATCH | {"steps": 29, "lr": 0.2, "kl_factor": 1.0, "settled_kl": 0.01}), weight=6000.0,
        remember=False,
    ),
}  # fmt: skip
"""`code`: the published figures for GPT-J, with the loop's own rule (`settled_kl`)."""


class Pmet(ManyFacts[PmetHparams]):
    """PMET."""

    hparams_type = PmetHparams
    sites = (MLP, ATTN)


pmet = Pmet("pmet", "Li et al. 2023 (PMET)", PMET_PRESETS, "memit")
"""Write many facts at once into several layers: an `Editor`; call it with the model and the requests."""
