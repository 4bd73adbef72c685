"""MEND: a network turns the factors of an edit's gradient into those of a change (Mitchell et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...models.model import Model
from ..edits.factors import Factors
from ..edits.weights import WeightChange
from ..judging.many import Limits
from ..training.capture import captured
from ..training.examples import Drawn
from ..training.labelled import Labelled
from ..training.loop import Network, Step, TrainingHparams
from ..training.mend_network import MendNetwork, mend_places
from .learnt import LearntEditor
from .protocol import Job, Made


@dataclass(frozen=True)
class MendHparams(TrainingHparams):
    """As `TrainingHparams`, and

    Args:
        rank: of the network's matrices, at most its width.
        alpha: where the step α of each matrix begins; the change is added, so a negative one descends.
        alpha_lr: of an Adam of its own for α, beside the one for everything (which has α too, as published).
        max_essence: as of `BatchHparams`.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "MEND"

    steps: int = 400
    lr: float = 1e-3
    accumulate: int = 4
    rank: int = 64
    alpha: float = -3e-3
    alpha_lr: float = 1e-4
    max_essence: float | None = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._above_zero("rank", "alpha_lr", "max_essence")
        self._figure("alpha")


_PUBLISHED = MendHparams(
    rank=1920, alpha=1e-4, lr=1e-6, accumulate=10, steps=100_000, every=500, patience=2000, max_essence=None
)
MEND_PRESETS: dict[str, MendHparams] = {
    "default": MendHparams(),
    "published": _PUBLISHED,
    "paper": _PUBLISHED.with_(max_essence=5.0),
}
"""`published`: the figures of Mitchell et al. 2022 in their code (1,000,000 draws at most, validated every 5,000,
with a patience of 20,000, ten draws to a step; there the very first step sums eleven).  `paper`: the same, with this
project's limit on drift.  Both begin by climbing the loss, and learn to turn round.
`default` is ours, for small models (docs/editors.md).
"""


@dataclass(frozen=True, eq=False)
class Mend(LearntEditor[MendHparams]):
    """MEND; several requests are one edit, whose gradients add up."""

    hparams_type = MendHparams

    def fresh(self, model: Model, layers: Sequence[int], hparams: MendHparams, seed: int) -> Network:
        return MendNetwork.new(model, mend_places(model, layers), hparams.rank, hparams.alpha, seed)

    def restored(
        self, model: Model, layers: Sequence[int], hparams: MendHparams, state: Mapping[str, Tensor]
    ) -> Network:
        return MendNetwork.of_state(mend_places(model, layers), state)

    def losses(self, model: Model, network: Network, drawn: Drawn, hparams: MendHparams, *, learning: bool) -> Step:
        assert isinstance(network, MendNetwork)
        edits, rephrases, others = (Labelled.of(model, one) for one in (drawn.edits, drawn.rephrases, drawn.others))
        weights = (hparams.edit_weight, hparams.local_weight)
        return network.losses(model, edits, rephrases, others, weights=weights, learning=learning)

    def rates(self, hparams: MendHparams) -> list[tuple[str, float]]:
        return [("", hparams.lr), ("alpha", hparams.alpha_lr)]

    def made(self, job: Job[MendHparams], network: Network) -> Made:
        assert isinstance(network, MendNetwork)
        rows = Labelled.of(job.model, [(request.prompt, request.target) for request in job.requests])
        sides = network.sides(captured(job.model, rows, network.places))
        factors = {place: Factors(u.contiguous(), v.contiguous()).compact() for place, (u, v) in sides.items()}
        return Made(WeightChange(factors))

    def limits(self, hparams: MendHparams) -> Limits:
        return Limits(essence=hparams.max_essence)


mend = Mend("mend", "Mitchell et al. 2022 (MEND)", MEND_PRESETS)
"""Edit by a trained network: an `Editor`; train it with `mend.train(...)`."""
