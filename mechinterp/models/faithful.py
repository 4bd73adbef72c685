"""Proof that a bridge computes what the plain model computes.

TransformerLens rebuilds attention from its parts, and where a rebuilt part differs (Falcon's ALiBi does, in 4.3) every
number that comes out is wrong in silence.  So the plain model answers once before it is wrapped, and the bridge after.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import MechinterpError
from .checkpoints import first_line
from .door import settled
from .placement import device_of
from .stacks import is_encoder_decoder

_LENGTH = 16
_COARSE = {torch.bfloat16: 0.2, torch.float16: 0.05}
_FINE = 1e-3
"""What another order of adding may cost, as a share of the largest logit; a wrong part costs far more."""


def some_logits(hf_model: Any, name: str) -> Float[Tensor, "pos vocab"]:
    """Logits of a few fixed tokens, as transformers runs the model (a bridged one through its bridge).

    Args:
        hf_model: the model.
        name: what messages call it.

    Raises:
        MechinterpError: the model does not run on token ids alone.
    """
    config = hf_model.config
    length = min(_LENGTH, int(getattr(config, "max_position_embeddings", None) or _LENGTH))
    ids = torch.randint(int(config.vocab_size), (1, length), generator=torch.Generator().manual_seed(0))
    ids = ids.to(device_of(hf_model))
    more = {"decoder_input_ids": ids.flip(1)} if is_encoder_decoder(hf_model) else {}
    try:
        with settled(hf_model):
            logits: Tensor = hf_model(ids, use_cache=False, **more).logits[0]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model of another kind trips over: the sentence is the same
        raise MechinterpError(
            f"{name} cannot be run on token ids, as a decoder is: {first_line(error)[:200]}"
        ) from error
    return logits


def check_faithful(plain: Float[Tensor, "pos vocab"], bridged: Float[Tensor, "pos vocab"], name: str) -> None:
    """Compare logits from before a model was bridged with those after.

    Raises:
        MechinterpError: they differ by more than rounding.
    """
    gap = float((bridged.float() - plain.float()).abs().max())
    limit = _COARSE.get(plain.dtype, _FINE) * max(1.0, float(plain.abs().max()))
    if not gap <= limit:
        raise MechinterpError(
            f"{name} cannot be served: bridged by TransformerLens it gives other logits than in transformers (they "
            f"differ by {gap:.2g}), so every number about it would be wrong"
        )
