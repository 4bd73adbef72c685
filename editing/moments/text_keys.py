"""Keys of running text: the input of the down-projections at every real token of a padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from ...errors import MechinterpError
from ...models.door import Hook
from ...models.model import Model
from ...models.stacks import DECODER


def text_keys(
    model: Model, rows: Sequence[list[int]], layers: Sequence[int], *, last_only: bool = False
) -> dict[int, Float[Tensor, "token d_mlp"]]:
    """Keys by layer; layers above the last one asked for are not run (those of an encoder-decoder are).

    Args:
        model: the model.
        rows: token ids; they are padded on the right, which changes nothing at the real tokens.
        layers: which layers, ascending.
        last_only: only each row's last token, instead of all.

    Raises:
        MechinterpError: the decoder of an encoder-decoder; a hook that did not fire.
    """
    if model.layout.stack == DECODER:
        raise MechinterpError(
            f"the decoder of {model.name} reads answers and no running text, so its keys have no second moment of "
            "text; collect that of the encoder (load the model without stack='decoder')"
        )
    length = max(len(ids) for ids in rows)
    padded: Int[Tensor, "row pos"] = torch.zeros(len(rows), length, dtype=torch.long)
    wanted: Bool[Tensor, "row pos"] = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = torch.tensor(ids)
        wanted[row, len(ids) - 1 if last_only else 0 : len(ids)] = True
    more: dict[str, Any] = {"stop_at_layer": layers[-1] + 1}
    if model.is_encoder_decoder:
        real = torch.arange(length) < torch.tensor([[len(ids)] for ids in rows])
        more = {"attention_mask": real.long().to(model.device), "decoder_ids": model.fed([model.start] * len(rows))}
    found: dict[int, Tensor] = {}
    mask = wanted.to(model.device)

    def take(layer: int, activation: Tensor) -> None:
        found[layer] = activation.detach()[mask]

    hooks: list[Hook] = [
        (model.layout.key_hook(layer), lambda activation, hook, layer=layer: take(layer, activation))
        for layer in layers
    ]
    model.forward(padded, hooks, **model.arguments(**more))
    if sorted(found) != list(layers):
        raise MechinterpError(
            f"the keys of {model.name} could not be read: the hook of a layer in {list(layers)} never fired"
        )
    return found


def panel_keys(
    model: Model, texts: Sequence[str], layers: Sequence[int], *, keys: int = 64, length: int = 64
) -> dict[int, Float64[Tensor, "key d_mlp"]]:
    """One key of each of so many texts, evenly spread: that of its last token, or of the last within `length`."""
    rows = [ids[:length] for text in texts if text and (ids := model.encode(text))]
    chosen = [rows[i * len(rows) // keys] for i in range(keys)] if len(rows) > keys else rows
    if not chosen:
        return {}
    return {layer: found.double() for layer, found in text_keys(model, chosen, layers, last_only=True).items()}
