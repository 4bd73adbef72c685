"""Edits that are on: added to the values as they leave the down-projection, the weights untouched.

The change is put in by a forward hook of the projection itself, which sees the key that was really used
(whatever a patch wrote at the key's hook point) and comes before anything that is written at the value's hook
point.  So an edit that is on and an edit that is baked into the weights agree under every other intervention.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...models.model import Model
from .factors import Factors

_on: WeakKeyDictionary[nn.Module, list[tuple[str, Mapping[int, Factors]]]] = WeakKeyDictionary()
"""Blocks of a stack -> the edits that are on now, as (digest, factors by layer), outermost first."""


def active_edits(model: Model) -> tuple[str, ...]:
    """Digests of the edits that are on, outermost first."""
    return tuple(digest for digest, _ in _on.get(model.layout.blocks, []))


def effective_weight(model: Model, layer: int) -> Float[Tensor, "d_mlp d_model"]:
    """The down-projection as it acts now: the weights, and the edits that are on."""
    weight = model.layout.down_projection(layer).detach()
    for _, factors in _on.get(model.layout.blocks, []):
        if layer in factors:
            weight = weight + factors[layer].dense.to(weight)
    return weight


@contextmanager
def added(model: Model, edits: Mapping[str, Mapping[int, Factors]]) -> Iterator[None]:
    """Add changes to the down-projections of some layers for the length of the block.

    Args:
        model: the model.
        edits: digest of an edit -> its change of each layer.
    """
    entries = list(edits.items())
    by_layer: dict[int, list[Factors]] = defaultdict(list)
    for _, factors in entries:
        for layer, change in factors.items():
            by_layer[layer].append(change)
    with ExitStack() as stack:
        for layer, changes in by_layer.items():  # one hook for all: a sequence may have hundreds of edits
            change = changes[0] if len(changes) == 1 else Factors.joined(changes).compact()
            stack.callback(_projection(model, layer).register_forward_hook(_adder(change)).remove)
        here = _on.setdefault(model.layout.blocks, [])
        here.extend(entries)
        try:
            yield
        finally:
            for entry in entries:
                here.remove(entry)


def _projection(model: Model, layer: int) -> nn.Module:
    """The plain linear map between the key's and the value's hook point."""
    site = model.layout.value_hook(layer).rpartition(".")[0]
    projection = model.bridge.get_submodule(site).original_component
    assert isinstance(projection, nn.Module)
    return projection


def _adder(change: Factors):  # type: ignore[no-untyped-def]  # torch fixes the hook's signature
    placed: dict[tuple[torch.device, torch.dtype], Factors] = {}

    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        keys = args[0]
        where = (keys.device, torch.promote_types(keys.dtype, change.u.dtype))
        if where not in placed:
            placed[where] = Factors(change.u.to(*where), change.v.to(*where))
        return output + placed[where].apply(keys).to(output.dtype)

    return add
