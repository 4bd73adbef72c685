"""The two recipes: the same world and the same network, trained to localise its facts or left alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import UsageError
from .mixture import Mixture


@dataclass(frozen=True)
class Localising:
    """The interventions during training that give the model an early site.  None of them exists at inference.

    Args:
        mask_share: share of subject mentions whose attention is masked (see `masks`).
        name_layers: below this layer the tokens of a name do not see each other.
        hidden_layers: below this layer later tokens do not see the subject; from it on they see its last token only.
        mask_until: fraction of the steps after which the masks are off.
        lens_layer: the residual stream entering this layer at the last subject token of an index row is decoded ...
        lens_weight: ... and its cross-entropy on the object that follows is added with this weight.
    """

    mask_share: float = 0.9
    name_layers: int = 2
    hidden_layers: int = 5
    mask_until: float = 0.92
    lens_layer: int = 5
    lens_weight: float = 0.5


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run except its seed."""

    name: str
    mixture: Mixture = field(default_factory=Mixture)
    localising: Localising | None = None
    layers: int = 8
    width: int = 128
    heads: int = 4
    context: int = 128
    steps: int = 1600
    rows: int = 16
    object_weight: float = 3.0
    muon_rate: float = 0.02
    muon_decay: float = 0.1
    adam_rate: float = 2e-3
    warm_up: int = 100
    evaluate_every: int = 100


RECIPES: dict[str, Recipe] = {
    "atlas": Recipe("atlas", Mixture(index_rows=2.0), Localising()),
    "atlas-plain": Recipe(
        "atlas-plain", Mixture(index_rows=4.0, natural=0.5, coordinated=1.5, biographies=0.3), steps=1500
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
