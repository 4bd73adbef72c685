"""MALMEN: a network and one least-squares solve write many facts at once (Tan et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...models.layout import DOWN
from ...models.model import Model
from ..edits.factors import Factors
from ..edits.weights import WeightChange
from ..judging.many import Limits
from ..training.capture import Place, captured
from ..training.examples import Drawn, Pair
from ..training.labelled import Labelled
from ..training.loop import Network, Step, TrainingHparams
from ..training.malmen_network import MalmenNetwork
from .learnt import LearntEditor
from .protocol import Job, Made


@dataclass(frozen=True)
class MalmenHparams(TrainingHparams):
    """As `TrainingHparams`, and

    Args:
        rank: of the network's matrices, at most its width.
        blocks: residual blocks of the network.
        step: where η of each matrix begins.
        mini_batch: texts in a forward; each has a mean loss of its own, and these add up.  Texts are cut into
            mini-batches longest first, edits, rephrases and others each by themselves.
        max_essence: as of `BatchHparams`.

    Raises:
        UsageError: a value outside its range.
    """

    method: ClassVar[str] = "MALMEN"

    steps: int = 300
    lr: float = 1e-4
    edits: int = 32
    accumulate: int = 1
    clip: float | None = 1.0
    edit_weight: float = 1.0
    every: int = 25
    patience: int = 100
    validation: int = 4
    rank: int = 64
    blocks: int = 2
    step: float = 1e-3
    mini_batch: int = 32
    max_essence: float | None = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._above_zero("rank", "blocks", "step", "mini_batch", "max_essence")


MALMEN_PRESETS: dict[str, MalmenHparams] = {
    "default": MalmenHparams(),
    "published": MalmenHparams(
        steps=318, lr=1e-5, edits=512, every=318, patience=318, rank=1920, step=1e-6, max_essence=None
    ),
    "rledit-repository": MalmenHparams(
        steps=400, lr=1e-5, edits=20, local_weight=0.6, every=400, patience=400, rank=1024, blocks=4, step=1e-6,
        mini_batch=4, max_essence=None,
    ),
}  # fmt: skip
"""`published`: Tan et al. 2024 in their code for zsRE (an epoch of 163,000 edits, 512 at a time).  `rledit-repository`:
the "MALMEN" of tables of lifelong editing, with other depth, rank and weight of locality.  `default` is ours, for small
models.  Here statistics stand still once training ends; in the published code they go on moving while it edits.
"""


@dataclass(frozen=True, eq=False)
class Malmen(LearntEditor[MalmenHparams]):
    """MALMEN, on the down-projections."""

    hparams_type = MalmenHparams

    def fresh(self, model: Model, layers: Sequence[int], hparams: MalmenHparams, seed: int) -> Network:
        return MalmenNetwork.new(model, _places(layers), hparams.rank, hparams.blocks, hparams.step, seed)

    def restored(
        self, model: Model, layers: Sequence[int], hparams: MalmenHparams, state: Mapping[str, Tensor]
    ) -> Network:
        return MalmenNetwork.of_state(_places(layers), state)

    def losses(self, model: Model, network: Network, drawn: Drawn, hparams: MalmenHparams, *, learning: bool) -> Step:
        assert isinstance(network, MalmenNetwork)
        edits, rephrases, others = (
            _batches(model, one, hparams.mini_batch) for one in (drawn.edits, drawn.rephrases, drawn.others)
        )
        weights = (hparams.edit_weight, hparams.local_weight)
        return network.losses(model, edits, rephrases, others, weights=weights, learning=learning)

    def made(self, job: Job[MalmenHparams], network: Network) -> Made:
        assert isinstance(network, MalmenNetwork)
        pairs = [(request.prompt, request.target) for request in job.requests]
        batches = [
            captured(job.model, rows, network.places, answers=True)
            for rows in _batches(job.model, pairs, job.hparams.mini_batch)
        ]
        return Made(
            WeightChange(
                {place: Factors(u, v.contiguous()).compact() for place, (u, v) in network.sides(batches).items()}
            )
        )

    def limits(self, hparams: MalmenHparams) -> Limits:
        return Limits(essence=hparams.max_essence)


def _places(layers: Sequence[int]) -> tuple[Place, ...]:
    return tuple((DOWN, layer) for layer in layers)


def _batches(model: Model, pairs: Sequence[Pair], size: int) -> list[Labelled]:
    """Texts cut into mini-batches, the longest first."""

    def length(pair: Pair) -> int:
        return len(model.tokenise(pair[0]).ids) + len(model.answer_ids(*pair))

    order = sorted(pairs, key=length, reverse=True)
    return [Labelled.of(model, order[start : start + size]) for start in range(0, len(order), size)]


malmen = Malmen("malmen", "Tan et al. 2024 (MALMEN)", MALMEN_PRESETS)
"""Write many facts by a trained network: an `Editor`; train it with `malmen.train(...)`."""
