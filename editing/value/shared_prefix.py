"""Keys and values of what comes before some token of each row, what rows have in common computed once.

Many facts in the same contexts share the contexts' tokens: their keys and values are computed for one fact and serve
all.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from ...models.model import Model
from ...patching.exact.prefix import PrefixLayer
from ...patching.plain.executor import forward

Pair = tuple[Tensor, Tensor]
"""Keys and values of one layer, [row, head, pos, d_head]."""


class _Recorder(PrefixLayer):
    """A read-only prefix that remembers what was computed after it."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        """The prefix in front of what is computed now."""
        self.recorded: Pair = key_states, value_states
        return super().update(key_states, value_states, *args, **kwargs)


def past_of(
    pairs: list[Pair], starts: Int[Tensor, " row"], width: int, n_ctx: int, kind: type[PrefixLayer] = PrefixLayer
) -> dict[str, Any]:
    """What a forward over `width` tokens from each row's start needs to know of the tokens before.

    Args:
        pairs: keys and values of those tokens, aligned at their right ends; what stands to the left of the shorter rows
            is masked.
        starts: how many tokens come before.
        width: how many follow.
        n_ctx: the model's context; padding behind a row's last token may lie beyond it, and nothing reads it.
        kind: of the cache's layers.
    """
    longest = pairs[0][0].shape[2]
    before = starts[:, None] - longest + torch.arange(longest, device=starts.device)
    after = starts[:, None] + torch.arange(width, device=starts.device)
    return {
        "past_key_values": Cache(layers=[kind(keys, values, longest) for keys, values in pairs]),
        "attention_mask": torch.cat([before >= 0, torch.ones_like(after, dtype=torch.bool)], 1).long(),
        "position_ids": after.clamp(max=n_ctx - 1),
    }


def common_length(ids: Int[Tensor, "fact row pos"], starts: Int[Tensor, "fact row"]) -> Int[Tensor, " row"]:
    """How many tokens before the start are the same for all facts, in each of the rows that every fact has."""
    same = (ids == ids[:1]).all(0).long().cumprod(-1).sum(-1)
    return torch.minimum(same, starts.amin(0))


def pairs_before(model: Model, ids: Int[Tensor, "row pos"], starts: Int[Tensor, " row"], group: int) -> list[Pair]:
    """Keys and values of the tokens before each row's start, aligned at their right ends, of every layer.

    Args:
        model: the model.
        ids: whole rows, padded on the right; those of a fact stand together.
        starts: the first token of each row that is left out.
        group: how many rows each fact has.
    """
    facts, longest = len(ids) // group, int(starts.max())
    row = torch.arange(len(ids), device=ids.device)[:, None]
    shared = common_length(ids.view(facts, group, -1), starts.view(facts, group))
    head, own = max(1, int(shared.max())), shared.repeat(facts)[:, None]
    first = _run(model, ids[:group, :head])
    # Both parts meet at a row's own first token: the shared one ends there, the other begins.
    aligned = own - head + torch.arange(head, device=ids.device)
    pairs = [_gather(pair, row % group, aligned) for pair in first]
    width = int((starts[:, None] - own).max())
    if width > 0:
        past = past_of(pairs, own[:, 0], width, model.n_ctx, _Recorder)
        after = own + torch.arange(width, device=ids.device)
        forward(model, ids[row, after.clamp(max=ids.shape[1] - 1)], past=past)
        recorded = [layer.recorded for layer in past["past_key_values"].layers]
        pairs = [
            (torch.cat([keys, more_keys], 2), torch.cat([values, more_values], 2))
            for (keys, values), (more_keys, more_values) in zip(pairs, recorded, strict=True)
        ]
    place = starts[:, None] - longest + torch.arange(longest, device=ids.device) + (head - own)
    return [_gather(pair, row, place) for pair in pairs]


def _run(model: Model, ids: Int[Tensor, "row pos"]) -> list[Pair]:
    cache = DynamicCache()
    forward(model, ids, past={"past_key_values": cache, "use_cache": True})
    layers: list[Any] = list(cache.layers)
    return [(layer.keys, layer.values) for layer in layers]


def _gather(pair: Pair, row: Int[Tensor, "row 1"], positions: Int[Tensor, "row chosen"]) -> Pair:
    """Positions of each row; negative ones give whatever is first."""
    keys, values = (part[row, :, positions.clamp(min=0)].transpose(1, 2) for part in pair)
    return keys, values
