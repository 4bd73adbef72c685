"""How much memory a trace may take beside the model, and how many rows a forward may then have.

Bytes are estimated from the model's shape; PyTorch's own overhead and the table come on top.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch

from ...errors import MechinterpError, UsageError
from ...models.model import Model

DEFAULT_BYTES = 2 * 10**9
"""On a CPU; on a GPU half of what is free."""

_TOKENS = {"cpu": 4096}
_GPU_TOKENS = 65_536
"""Tokens (rows x width) per forward beyond which nothing runs faster."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_bytes(text: str | int) -> int:
    """Bytes from "500MB", "2GB", "1.5g" or a plain number.

    Raises:
        UsageError: no such amount, or not above 0.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)(?:i?b)?\s*", str(text).lower())
    amount = 0.0 if found is None else float(found[1]) * _UNITS[found[2]]
    if not 1 <= amount < math.inf:
        raise UsageError(f"{text!r} is no amount of memory; write 500MB or 2GB, for example")
    return int(amount)


@dataclass(frozen=True, eq=False)
class Budget:
    """Half of it for what is kept of a group's runs, half for one forward.

    Args:
        model: whose activations are to fit.
        bytes: in all.
        tokens: rows x width of one forward at most, whatever the memory.
    """

    model: Model
    bytes: int
    tokens: int

    @staticmethod
    def of(model: Model, memory: str | int | None = None) -> Budget:
        """The stated amount, or the default of the model's device."""
        if memory is not None:
            allowed = parse_bytes(memory)
        elif model.device.type == "cuda":
            allowed = int(torch.cuda.mem_get_info(model.device)[0]) // 2
        else:
            allowed = DEFAULT_BYTES
        return Budget(model, allowed, _TOKENS.get(model.device.type, _GPU_TOKENS))

    def rows(self, length: int, width: int, keep: int) -> int:
        """Rows of one forward over the last `width` of `length` tokens; at least 1.

        Raises:
            MechinterpError: not even one row fits.
        """
        fits = self.bytes // 2 // self.row_bytes(length, width, keep)
        if fits == 0:
            raise MechinterpError(
                f"one row of {length} tokens of {self.model.name} needs about "
                f"{2 * self.row_bytes(length, width, keep) / 1e6:,.0f} MB; raise memory (--memory)"
            )
        return max(1, min(fits, self.tokens // width))

    def row_bytes(self, length: int, width: int, keep: int) -> int:
        """What one row takes where a forward is at its widest."""
        model, size = self.model, self.model.dtype.itemsize
        config = model.layout.config
        heads = model.layout.n_kv_heads * int(config.d_head)
        d_mlp = int(getattr(config, "d_mlp", None) or 4 * model.d_model)
        # The residual stream before and after a join, the normed copy, what attention and MLP add; the MLP's hidden
        # layer and its activation function's intermediates; the scores of attention, before and after the softmax.
        token = size * (8 * model.d_model + 4 * d_mlp) + 3 * max(size, 4) * model.n_heads * length
        prefix = 4 * size * heads * length  # gathered, and again joined to the new ones
        return width * token + prefix + keep * model.vocab_size * (size + 3 * max(size, 4))

    def kept_bytes(self, length: int, keep: int, *, rows: int, activations: int, pairs: bool) -> int:
        """What is kept of one prompt's run.

        Args:
            length: of the prompt in tokens.
            keep: positions with logits.
            rows: of the run (its draws).
            activations: how many are kept, each of d_model per token.
            pairs: whether the keys and values of every layer are kept too.
        """
        model, size = self.model, self.model.dtype.itemsize
        heads = model.layout.n_kv_heads * int(model.layout.config.d_head)
        width = activations * model.d_model + (2 * model.n_layers * heads if pairs else 0)
        return rows * size * (length * width + keep * model.vocab_size)

    def prompts(self, each: int, most: int) -> int:
        """How many prompts' runs are held at once, from the bytes of one.

        Raises:
            MechinterpError: not even one prompt's fit.
        """
        fits = self.bytes // 2 // max(each, 1)
        if fits == 0:
            raise MechinterpError(
                f"the runs of one prompt of {self.model.name} keep about {each / 1e6:,.0f} MB, more than half of the "
                f"{self.bytes / 1e6:,.0f} MB given; raise memory (--memory)"
            )
        return min(fits, most)
