"""Attention sinks: tokens at which an MLP's key towers over all others.

In models without BOS the first token of a text is a massive activation (Sun et al. 2024, arXiv 2402.17762), and so is
many a delimiter.  Measured on two models, on 3,600 tokens of WikiText: ordinary keys stay below 4.5 times the median of
‖k‖ in every layer, those of sinks begin at 5 and reach 612 times (SmolLM2-135M, layer 11: the first token of every
text, one key in a hundred and nearly all of their mean square).  Sinks stand elsewhere too (" the", a lone blank).

The median is that of tokens drawn at random from the vocabulary: it belongs to the model alone.  In those two models it
is 0.7 to 2 times the median on text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from ...errors import MechinterpError
from ...models.door import Hook
from ...models.model import Model
from ...models.stacks import DECODER

TOWERING = 5.0
"""A key longer than this multiple of the median is that of a sink."""

_ROWS, _LENGTH = 16, 32
"""Of the panel of random tokens."""

TEXTS = (
    "= History of the town =",
    "The town lies on the river, and the old bridge in the middle of it was built by people who came from the hills.",
    "In the spring of the year, the price of bread was high; nobody knew why, and the council met in the market hall.",
    'First, take the number 12 and add 30. The result is 42, which is "even" (as it can be halved).',
)
"""Plain text in which sinks are looked for."""


@dataclass(frozen=True)
class Sink:
    """The towering keys of one layer.

    Args:
        layer: which.
        ratio: the longest key next to the median.
        first: the first token of every text is one.
        tokens: the other tokens that were, as text, the longest key first.
    """

    layer: int
    ratio: float
    first: bool
    tokens: tuple[str, ...]


def random_rows(model: Model, rows: int = _ROWS, length: int = _LENGTH) -> list[list[int]]:
    """Tokens drawn at random, with BOS in front where the model has it; the same ones each time."""
    front = model.encode("a")[:1] if model.adds_bos else []
    draw = torch.Generator().manual_seed(0)
    size = (rows, min(length, model.n_ctx) - len(front))
    return [[*front, *row] for row in torch.randint(model.vocab_size, size, generator=draw).tolist()]


def key_norms(model: Model, rows: Sequence[Sequence[int]], layers: Sequence[int]) -> Float64[Tensor, "layer row pos"]:
    """‖k‖ of every token of rows of one length.

    Raises:
        MechinterpError: a layer whose keys cannot be read.
    """
    found: dict[int, Tensor] = {}

    def take(layer: int, activation: Tensor) -> None:
        found[layer] = activation.detach().double().norm(dim=-1).view(len(rows), -1).cpu()

    hooks: list[Hook] = [
        (model.layout.key_hook(layer), lambda activation, hook, layer=layer: take(layer, activation))
        for layer in layers
    ]
    fed = model.fed([model.start] * len(rows))
    more = {"decoder_ids": fed} if model.is_encoder_decoder else {"stop_at_layer": max(layers) + 1}
    model.forward(torch.tensor([*map(list, rows)]), hooks, **model.arguments(**more))
    return torch.stack([found[layer] for layer in layers])


def median_norms(model: Model, layers: Sequence[int]) -> dict[int, float]:
    """The median of ‖k‖ over random tokens, by layer."""
    norms = key_norms(model, random_rows(model), layers)
    return {layer: float(own.median()) for layer, own in zip(layers, norms, strict=True)}


def first_token_sinks(model: Model) -> dict[int, float]:
    """Layers where the first token of every text is a sink -> its key next to the median.

    None of a model that puts a token of its own there: no token of a prompt then stands at the sink; nor of one whose
    keys cannot be read.
    """
    if model.adds_bos or model.is_encoder_decoder or "key" in model.layout.refused:
        return {}
    layers = range(model.n_layers)
    try:
        norms = key_norms(model, random_rows(model, rows=8, length=16), layers)
    except MechinterpError:  # a broken model: what is asked of it says so, and of its own prompt
        return {}
    ratios = [float(own[:, 0].min() / own[:, 1:].median()) for own in norms]
    return {layer: ratio for layer, ratio in zip(layers, ratios, strict=True) if ratio > TOWERING}


def told(layers: Mapping[int, float]) -> str:
    """Sink layers in words: "layers 1, 9: keys up to 77 times the median"."""
    noun = "layer" if len(layers) == 1 else "layers"
    return f"{noun} {', '.join(map(str, layers))}: keys up to {max(layers.values()):.2g} times the median"


def sinks_of(model: Model, texts: Sequence[str] = TEXTS) -> list[Sink]:
    """The layers with towering keys, and at which tokens of some plain text they stand.

    Raises:
        MechinterpError: the decoder of an encoder-decoder, which reads no text; keys that cannot be read.
    """
    if model.layout.stack == DECODER:
        raise MechinterpError(f"the decoder of {model.name} reads no running text")
    layers = range(model.n_layers)
    medians, rows = median_norms(model, layers), [model.encode(text)[: model.n_ctx] for text in texts]
    norms = [key_norms(model, [row], layers)[:, 0] for row in rows]
    found = []
    for layer in layers:
        ratios = [own[layer] / medians[layer] for own in norms]
        worst = max(float(own.max()) for own in ratios)
        if not worst > TOWERING:
            continue
        others = {
            (float(ratio), model.decode([row[place]]))
            for row, own in zip(rows, ratios, strict=True)
            for place, ratio in enumerate(own)
            if place and ratio > TOWERING
        }
        tokens = tuple(dict.fromkeys(token for _, token in sorted(others, reverse=True)))
        found.append(Sink(layer, worst, all(float(own[0]) > TOWERING for own in ratios), tokens))
    return found
