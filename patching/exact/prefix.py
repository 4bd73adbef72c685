"""A read-only cache of keys and values: what the tokens before a patched one contribute to attention.

In a causal decoder a patch at token t changes nothing before t.  A forward over the tokens from t on therefore needs
only the keys and values of the earlier ones, which are those of the corrupted run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

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
