"""Texts as vectors: of the model itself, or of a sentence encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...errors import MechinterpError, UsageError
from ...models.layout import RESID
from ...models.model import Model
from ...patching.plain.executor import forward

Embed = Callable[[Sequence[str]], Tensor]
"""Gives a row for each text."""
_ROWS = 64
OWN = "model"
"""The encoder that is the model itself."""


def pooled(states: Float[Tensor, "text pos width"], lengths: Sequence[int]) -> Float64[Tensor, "text width"]:
    """The mean over each text's own tokens, padding left out."""
    real = torch.arange(states.shape[1]) < torch.tensor(list(lengths))[:, None]
    exact = states.double().cpu()
    return (exact * real[..., None]).sum(1) / real.sum(1, keepdim=True)


def of_model(model: Model, texts: Sequence[str], layer: int) -> Float64[Tensor, "text width"]:
    """The residual stream that leaves a layer, as the model stands, averaged over a text's tokens.

    Args:
        model: the model, with whatever edits are on.
        texts: each by itself, not framed.
        layer: which; the middle one serves.
    """
    rows, hook, found = [model.fitting(text) for text in texts], model.layout.hook(RESID, layer), list[Tensor]()
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        ids = torch.zeros(len(some), max(map(len, some)), dtype=torch.long)
        for i, row in enumerate(some):
            ids[i, : len(row)] = torch.tensor(row)
        found.append(pooled(forward(model, ids, reads=[hook]).cache[hook], [len(row) for row in some]))
    return torch.cat(found) if found else torch.zeros(0, model.d_model).double()


def embedder(model: Model, encoder: str, layer: int) -> Embed:
    """What embeds texts.

    Args:
        model: whose own states serve where the encoder is "model".
        encoder: "model", or the name or folder of a sentence encoder.
        layer: of the model.

    Raises:
        UsageError: a sentence encoder, and the library for it is not installed.
        MechinterpError: the encoder cannot be loaded; an encoder-decoder, whose own states serve nobody.
    """
    if encoder == OWN:
        if model.is_encoder_decoder:
            model.arguments()  # says that decoders alone are served
        return lambda texts: of_model(model, texts, layer)
    try:
        library: Any = import_module("sentence_transformers")
    except ImportError:
        raise UsageError(
            f"the encoder {encoder!r} needs sentence-transformers, which is not installed; pip install "
            "'mechinterp[retrieval]', or use encoder='model'"
        ) from None
    try:
        network = library.SentenceTransformer(encoder)
    except (OSError, ValueError) as error:
        raise MechinterpError(f"the sentence encoder {encoder!r} cannot be loaded ({error})") from error
    return lambda texts: torch.from_numpy(network.encode(list(texts), convert_to_numpy=True)).double()
