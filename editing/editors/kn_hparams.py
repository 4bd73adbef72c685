"""Hyper-parameters of knowledge neurons, and the presets with the source of each figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import UsageError
from ..value.hparams import Hparams


@dataclass(frozen=True)
class KnHparams(Hparams):
    """How knowledge neurons are found and rewritten.

    Args:
        steps: m of the integrated gradients.
        threshold: t: a unit is kept if what it is credited with exceeds this share of the largest credit in any layer.
        shared: p: of those, the ones that are kept in more than this share of the prompts of the fact; with one prompt
            all are.
        old: λ₁: how much of the old answer's embedding is taken from each unit's row.
        new: λ₂: how much of the new answer's is added.
        max_essence: an edit after which the mean KL(edited || original) after the neutral sentence about the subjects
            exceeds this many nats is refused as disabling; None: it is not measured.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "knowledge neurons"

    steps: int = 20
    threshold: float = 0.2
    shared: float = 0.5
    old: float = 0.5
    new: float = 1.0
    max_essence: float | None = 0.2

    def __post_init__(self) -> None:
        self._above_zero("steps", "max_essence")
        self._not_negative("threshold", "shared", "old", "new")
        for name in ("threshold", "shared"):
            if not getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it is a share below 1")


PRESETS: dict[str, KnHparams] = {
    "default": KnHparams(),
    "paper": KnHparams(threshold=0.3, shared=0.7, old=1.0, new=8.0),
    "code": KnHparams(old=2.0, new=2.0, max_essence=None),
}
"""`paper`: after Dai et al. 2022 (λ₁ and λ₂ as they are commonly quoted, p the upper end of what is tried there).
`code`: what the public implementation for GPT models uses, with the threshold of the published ROME comparison.

`default` was measured on 20 facts of the bundled `atlas`, whose tied embeddings are large next to what its MLPs write:
with λ₁ = 1 and λ₂ = 8 every answer becomes the new one (ES 100, NS 0), with 1 and 1 ES is 85 and NS 20, with 0.5 and 1
ES 80 and NS 38, with 0.25 and 0.75 ES 45 and NS 73 (50 other facts, 0.5 and 1: ES 60, PS 58, NS 51).

The limit of `max_essence` is lower than other editors' because the units of a fact fire on prompts of its relation and
hardly after the neutral sentence.  On 15 facts of `atlas`, each alone and all in one batch: `default` at most 0.02 and
0.09 nats, `code` 0.13 and 1.7, `paper` up to 13 (8 of 15 above 0.2) and 10.4; `paper` therefore keeps the limit.  What
an edit does to other subjects of its relation is not seen: there `default` changes up to 7.6 nats.
"""
