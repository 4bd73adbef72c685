"""A read-only cache of keys and values: what the tokens before a patched one contribute to attention.

In a causal decoder a patch at token t changes nothing before t.  A forward over the tokens from t on therefore needs
only the keys and values of the earlier ones, which are those of the corrupted run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ...models.model import Model
from ..plain.executor import forward
from ..plain.jobs import Pair


class PrefixLayer(DynamicLayer):
    """Keys and values of the first `length` tokens, the same at every call, for a batch that grows.

    Args:
        keys, values: of the whole sequence, one row per sample.
        length: how many tokens come before the forward's first one.
        samples: gives the sample of each row now in the batch; None: each row is its own sample.
    """

    # The mask of sliding-window layers already hides what is out of the window, so these need no layer of their own.
    is_sliding = False

    def __init__(
        self,
        keys: Float[Tensor, "sample head pos d_head"],
        values: Float[Tensor, "sample head pos d_head"],
        length: int,
        samples: Callable[[], Int[Tensor, " row"]] | None = None,
    ) -> None:
        super().__init__()
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]
        self._prefix = self.keys, self.values
        self._length, self._samples = length, samples
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        """The prefix in front of what is computed now; nothing is stored."""
        keys, values = self._prefix
        if self._samples is None:
            return torch.cat([keys, key_states], -2), torch.cat([values, value_states], -2)
        rows = self._samples()
        if len(rows) != key_states.shape[0]:  # the placeholder row of the layers before the first cell joins
            rows = rows.new_zeros(key_states.shape[0])
        return torch.cat([keys[rows], key_states], -2), torch.cat([values[rows], value_states], -2)

    def get_seq_length(self) -> int:
        """Tokens in the prefix."""
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of keys seen by the mask, and its offset."""
        return self._length + query_length, 0


@dataclass(frozen=True, eq=False)
class Tail:
    """The ends of some rows of tokens, each from its own start on, with what came before it as a cache.

    A write at a row's start or after it changes nothing before, so what is optimised there needs no more than this.

    Args:
        ids: [row, width], padded on the right.
        past: keyword arguments for `executor.forward`.
    """

    ids: Int[Tensor, "row width"]
    past: dict[str, Any]

    @staticmethod
    def of(
        model: Model, ids: Int[Tensor, "row pos"], starts: Int[Tensor, " row"], lengths: Int[Tensor, " row"]
    ) -> Tail:
        """Run the rows once and keep keys and values of the tokens before each row's start.

        Args:
            model: the model.
            ids: whole rows, padded on the right.
            starts: where each row's end begins.
            lengths: how many tokens of each row are real.
        """
        cache = DynamicCache()
        forward(model, ids, past={"past_key_values": cache, "use_cache": True})
        longest, width = int(starts.max()), int((lengths - starts).max())
        row = torch.arange(len(ids), device=ids.device)[:, None]
        # Prefixes are aligned at their right ends; what stands to the left of the shorter ones is masked.
        before = starts[:, None] - longest + torch.arange(longest, device=ids.device)
        after = starts[:, None] + torch.arange(width, device=ids.device)
        layers: list[Any] = list(cache.layers)
        pairs = [(_gather(layer.keys, row, before), _gather(layer.values, row, before)) for layer in layers]
        mask = torch.cat([before >= 0, torch.ones_like(after, dtype=torch.bool)], 1).long()
        past = {
            "past_key_values": Cache(layers=[PrefixLayer(keys, values, longest) for keys, values in pairs]),
            "attention_mask": mask,
            # Padding behind a row's last token may lie beyond the model's context; nothing reads it.
            "position_ids": after.clamp(max=model.n_ctx - 1),
        }
        return Tail(ids[row, after.clamp(max=ids.shape[1] - 1)], past)


def _gather(value: Tensor, row: Tensor, positions: Tensor) -> Tensor:
    """Positions of each row, [row, head, chosen, d_head]; negative ones give whatever is first."""
    return value[row, :, positions.clamp(min=0)].transpose(1, 2)
