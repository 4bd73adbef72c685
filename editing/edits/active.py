"""Edits that are on: added to what leaves the matrices they change, the weights untouched.

The change is put in by a forward hook of the matrix itself, which sees the input that was really used (whatever a patch
wrote at its hook point) and comes before anything that is written at the output's hook point.  So an edit that is on
and an edit that is baked into the weights agree under every other intervention.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...models.guests import announced
from ...models.layout import DOWN, entering
from ...models.model import Model
from .factors import Factors

Places = Mapping[tuple[str, int], Factors]
"""(matrix, layer) -> the change of that matrix."""

_on: WeakKeyDictionary[nn.Module, list[tuple[str, Places]]] = WeakKeyDictionary()
"""Blocks of a stack -> the edits that are on now, as (digest, what they add to weights), outermost first."""


def active_edits(model: Model) -> tuple[str, ...]:
    """Digests of the edits that are on, outermost first."""
    return tuple(digest for digest, _ in _on.get(model.layout.blocks, []))


def effective_weight(model: Model, layer: int, matrix: str = DOWN) -> Float[Tensor, "d_in d_out"]:
    """An MLP matrix as it acts now: the weights, and the edits that are on."""
    weight = model.layout.mlp_matrix(matrix, layer).detach()
    for _, factors in _on.get(model.layout.blocks, []):
        if (matrix, layer) in factors:
            weight = weight + factors[matrix, layer].dense.to(weight)
    return weight


@contextmanager
def noted(model: Model, edits: Mapping[str, Places]) -> Iterator[None]:
    """Let edits count as being on for the length of the block.

    Args:
        model: the model.
        edits: digest of an edit -> what it adds to weights; nothing where it acts on something else.
    """
    entries = list(edits.items())
    here = _on.setdefault(model.layout.blocks, [])
    here.extend(entries)
    try:
        with announced(model.bridge, [f"edit {digest}" for digest in edits]):
            yield
    finally:
        for entry in entries:
            here.remove(entry)


@contextmanager
def added(model: Model, edits: Mapping[str, Places]) -> Iterator[None]:
    """Add changes to MLP matrices for the length of the block.

    Args:
        model: the model.
        edits: digest of an edit -> its change of each matrix.
    """
    by_place: dict[tuple[str, int], list[Factors]] = defaultdict(list)
    for factors in edits.values():
        for place, change in factors.items():
            by_place[place].append(change)
    with ExitStack() as stack:
        for (matrix, layer), changes in by_place.items():  # one hook for all: a sequence may have hundreds of edits
            change = changes[0] if len(changes) == 1 else Factors.joined(changes).compact()
            projection = model.layout.mlp_projection(matrix, layer)
            stack.callback(projection.register_forward_hook(_adder(matrix, change)).remove)
        with noted(model, edits):
            yield


@contextmanager
def draft(model: Model, factors: Mapping[int, Factors]) -> Iterator[None]:
    """Changes of down-projections that are tried and belong to no edit yet; other threads must not see them."""
    with model.alone(), added(model, {"draft": {(DOWN, layer): change for layer, change in factors.items()}}):
        yield


def _adder(matrix: str, change: Factors):  # type: ignore[no-untyped-def]  # torch fixes the hook's signature
    placed: dict[tuple[torch.device, torch.dtype], Factors] = {}

    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        keys = entering(matrix, args[0])
        where = (keys.device, torch.promote_types(keys.dtype, change.u.dtype))
        if where not in placed:
            placed[where] = Factors(change.u.to(*where), change.v.to(*where))
        return output + placed[where].apply(keys).to(output.dtype)

    return add
