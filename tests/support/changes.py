"""A tiny hand-made change of each kind, for laws that every kind keeps."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mechinterp.editing.edits.adapters import Gated, Units
from mechinterp.editing.edits.change import Change
from mechinterp.editing.edits.codebook import Codebook
from mechinterp.editing.edits.factors import Factors
from mechinterp.editing.edits.inputs import Demonstrations, Recalled
from mechinterp.editing.edits.routed import Routed
from mechinterp.editing.edits.scopes import Mentions
from mechinterp.editing.edits.side_memories import SideMemories
from mechinterp.editing.edits.weights import WeightChange
from mechinterp.editing.stores.embedding import of_model
from mechinterp.editing.stores.retrieval import Near, Spelled
from mechinterp.editing.stores.store import Store
from mechinterp.models.model import Model
from mechinterp.patching.plain.executor import forward

LAYER = 1
INSIDE, OUTSIDE = "Marie Curie was born in", "The capital of Poland is"
"""A prompt that every change with a scope answers, and one that none does."""


def _random(*shape: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(model: Model, seed: int = 0, rank: int = 2) -> WeightChange:
    """Of every matrix the MLP has."""
    layout, factors = model.layout, {}
    for matrix in ("down", "up", "gate") if layout.is_gated(LAYER) else ("down", "up"):
        wide, narrow = layout.mlp_matrix(matrix, LAYER).shape
        u, v = (_random(rank, int(width), seed=seed, size=0.3) for width in (wide, narrow))
        factors[matrix, LAYER] = Factors(u, v)
    return WeightChange(factors)


def units(model: Model, seed: int = 0, count: int = 3) -> Units:
    """Units that fire on ordinary text."""
    shape = (count, model.d_model)
    gated = _random(*shape, seed=seed + 2) if model.layout.is_gated(LAYER) else None
    return Units(LAYER, _random(*shape, seed=seed), torch.ones(count), _random(*shape, seed=seed + 1), gated)


def _entering(model: Model, text: str) -> torch.Tensor:
    """What enters the down-projection at the last token."""
    hook = model.layout.key_hook(LAYER)
    return forward(model, torch.tensor([model.encode(text)]), reads=[hook]).cache[hook][0, -1]


def codebook(model: Model, seed: int = 0, replaces: str = "query") -> Codebook:
    """One entry that answers `INSIDE`."""
    key = _entering(model, INSIDE)[None]
    return Codebook(LAYER, "down", key, torch.full((1,), 1e-2), _random(1, model.d_model, seed=seed), replaces)


def gated(model: Model, seed: int = 0) -> Gated:
    """A second matrix that answers `INSIDE` and not `OUTSIDE`: its threshold lies between the two."""
    factors = weights(model, seed).factors["down", LAYER]
    sizes = []
    for text in (INSIDE, OUTSIDE):
        hook = model.layout.key_hook(LAYER)
        keys = forward(model, torch.tensor([model.encode(text)]), reads=[hook]).cache[hook][0]
        sizes.append(float(factors.apply(keys).norm(dim=-1).mean()))
    inside, outside = sizes
    if inside < outside:  # then another direction tells them apart
        return gated(model, seed + 1)
    return Gated(LAYER, "down", factors, (inside + outside) / 2)


def routed(model: Model, seed: int = 0) -> Routed:
    """The weights, where Marie is spoken of."""
    return Routed(Mentions(("Marie",)), weights(model, seed))


def side_memories(model: Model, seed: int = 0) -> SideMemories:
    """A second matrix as in `gated`, and a third that would answer nobody."""
    one = gated(model, seed)
    delta, never = one.factors.dense, float("inf")
    thresholds = torch.tensor([one.threshold, never])
    return SideMemories(LAYER, "down", torch.stack([delta, -delta]), thresholds, group="a")


def recalled(model: Model) -> Recalled:
    """A memory of what was said about Marie's birth, found by its letters."""
    return Recalled(Store().with_entry(INSIDE, "Marie lives in Rome."), Spelled())


def recalled_by_meaning(model: Model) -> Recalled:
    """The same, found by what the model itself makes of it."""
    vector = of_model(model, [INSIDE], LAYER)[0]
    return Recalled(Store().with_entry(INSIDE, "Marie lives in Rome.", vector), Near(layer=LAYER, above=0.999))


CHANGES: dict[str, Callable[[Model], Change]] = {
    "weights": weights,
    "units": units,
    "codebook": codebook,
    "codebook, before": lambda model: codebook(model, replaces="before"),
    "codebook, all": lambda model: codebook(model, replaces="all"),
    "gated": gated,
    "demonstrations": lambda model: Demonstrations("Marie lives in Rome. {}", Mentions(("Marie",))),
    "side memories": side_memories,
    "recalled": recalled,
    "recalled by meaning": recalled_by_meaning,
    "routed weights": routed,
    "routed units": lambda model: Routed(Mentions(("Marie",)), units(model)),
    "routed codebook": lambda model: Routed(Mentions(("Marie",)), codebook(model)),
}
"""One of each kind."""

SCOPED = tuple(name for name in CHANGES if name not in ("weights", "units"))
"""Those that leave prompts outside their scope alone."""

EMPTY: dict[str, Callable[[Model], Change]] = {
    "weights": lambda model: WeightChange({}),
    "units": lambda model: units(model, count=0),
    "codebook": lambda model: Codebook(
        LAYER, "down", torch.zeros(0, model.d_mlp), torch.zeros(0), torch.zeros(0, model.d_model), "all"
    ),
    "gated": lambda model: Gated(LAYER, "down", weights(model).factors["down", LAYER], float("inf")),
    "demonstrations": lambda model: Demonstrations("{}"),
    "side memories": lambda model: SideMemories(
        LAYER, "down", torch.zeros(0, model.d_mlp, model.d_model), torch.zeros(0)
    ),
    "recalled": lambda model: Recalled(Store(), Spelled()),
    "routed": lambda model: Routed(Mentions(()), weights(model)),
}
"""Those that hold nothing."""
