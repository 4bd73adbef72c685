"""Collecting second moments from running text, several layers in one pass.

Every text is a sequence of its own from position 0, cut at the model's context length; every token counts and
padding never does.  Sums are float64 and grow by batches, so memory does not depend on the amount of text.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from ..errors import MechinterpError, UsageError
from ..models import Model
from ..progress import progress_bar
from .hashing import TextHash, short
from .interrupt import hold_interrupt
from .moments import SecondMoment

_CHUNK = 256
"""Texts that are sorted by length together before they are batched: little padding, bounded look-ahead."""


@dataclass
class _Sums:
    """What is known so far; brought forward one whole batch at a time."""

    products: dict[int, Float64[Tensor, "d_mlp d_mlp"]]
    fourth: dict[int, float]
    tokens: int = 0
    documents: int = 0
    texts: TextHash = field(default_factory=TextHash)

    def add(self, keys: dict[int, Float[Tensor, "n d_mlp"]], texts: Sequence[str]) -> None:
        for layer, found in keys.items():
            exact = found.to(self.products[layer])
            self.products[layer].addmm_(exact.T, exact)
            self.fourth[layer] += float(exact.square().sum(-1).square().sum())
        self.tokens += next(iter(keys.values())).shape[0]
        self.documents += len(texts)
        for text in texts:
            self.texts.add(text)


def collect_moments(
    model: Model,
    texts: Iterable[str],
    layers: Sequence[int],
    *,
    max_tokens: int | None = None,
    batch_tokens: int = 4096,
    progress: bool = True,
) -> dict[int, SecondMoment]:
    """Second moments of several layers' keys, in one pass over the texts.

    About ten times as many tokens as the layer has units are enough (Gupta et al. 2025, arXiv 2506.04226):
    20,000 for GPT-2 small, 64,000 for GPT-2 XL.  Ctrl-C ends the collection and keeps what there is, with a
    warning.

    Args:
        model: the model, as it stands (an edited model has other keys).
        texts: any iterable of strings; empty ones are skipped, long ones cut at the model's context length.
        layers: which layers.
        max_tokens: stop there, in the middle of a text if need be; default: all of it.
        batch_tokens: tokens per forward, padding included.
        progress: show a bar with the tokens seen.

    Raises:
        UsageError: no layer, a layer out of range, texts that hold no token, a single string instead of
            texts.
    """
    if isinstance(texts, str):
        raise UsageError("texts is one string; give an iterable of strings, one for each document")
    if not layers:
        raise UsageError("no layer was named whose keys should be collected")
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"max_tokens is {max_tokens}; give a positive number, or None for all of the text")
    indices = sorted({model.layout.check_layer(layer) for layer in layers})
    device = torch.device("cpu") if model.device.type == "mps" else model.device  # no float64 on mps
    size = model.d_mlp
    sums = _Sums(
        {layer: torch.zeros(size, size, dtype=torch.float64, device=device) for layer in indices},
        dict.fromkeys(indices, 0.0),
    )
    complete = True
    label = f"tokens at layer {', '.join(map(str, indices))}"
    with progress_bar(label, max_tokens, shown=progress) as advance, hold_interrupt() as interrupted:
        try:
            for batch in _batches(model, texts, max_tokens, batch_tokens):
                sums.add(_keys(model, [ids for _, ids in batch], indices), [text for text, _ in batch])
                advance(sum(len(ids) for _, ids in batch))
                if interrupted():
                    complete = False
                    break
        except KeyboardInterrupt:  # out of the texts themselves: a Ctrl-C is held until a batch is counted
            complete = False
    if sums.tokens == 0:
        raise UsageError("the texts hold no token at all, so there is no second moment; give some text")
    if not complete:
        warnings.warn(
            f"interrupted: the second moment averages the {sums.tokens:,} tokens seen so far "
            f"({sums.documents:,} texts)",
            stacklevel=2,
        )
    found = model.fingerprint()
    return {
        layer: SecondMoment(
            layer=layer,
            matrix=_symmetric(product.div_(sums.tokens)).cpu(),
            tokens=sums.tokens,
            model=found,
            model_name=model.name,
            documents=sums.documents,
            texts=sums.texts.hexdigest(),
            fourth_moment=sums.fourth[layer] / sums.tokens,
            complete=complete,
        )
        for layer, product in sums.products.items()
    }


def merge_moments(parts: Sequence[SecondMoment]) -> SecondMoment:
    """One moment from several of the same layer and model, each from texts of its own."""
    if not parts:
        raise UsageError("there is no second moment to merge")
    first = parts[0]
    for part in parts[1:]:
        if (part.layer, part.model) != (first.layer, first.model):
            raise UsageError(
                f"second moments of layer {first.layer} of model {short(first.model)} and of layer "
                f"{part.layer} of model {short(part.model)} cannot be merged"
            )
    tokens = sum(part.tokens for part in parts)
    matrix = torch.zeros_like(first.matrix)
    texts = TextHash()
    for part in parts:
        matrix.add_(part.matrix, alpha=part.tokens / tokens)
        texts.merge(part.texts)
    fourths = [part.fourth_moment for part in parts]
    known = [f * part.tokens for f, part in zip(fourths, parts, strict=True) if f is not None]
    return replace(
        first,
        matrix=matrix,
        tokens=tokens,
        documents=sum(part.documents for part in parts),
        texts=texts.hexdigest(),
        fourth_moment=sum(known) / tokens if len(known) == len(parts) else None,
        complete=all(part.complete for part in parts),
        repair=None,
    )


def _symmetric(matrix: Float64[Tensor, "d d"]) -> Float64[Tensor, "d d"]:
    """Rounding leaves the two halves a bit apart; the solvers read only one of them."""
    return (matrix + matrix.T) / 2


def _batches(
    model: Model, texts: Iterable[str], max_tokens: int | None, batch_tokens: int
) -> Iterator[list[tuple[str, list[int]]]]:
    """Batches of (text, ids) of similar length; each at most `batch_tokens` padded, or one long text."""
    left = max_tokens
    stream = iter(texts)
    while chunk := list(islice(stream, _CHUNK)):
        documents = []
        for text in chunk:
            ids = model.encode(text)[: model.n_ctx] if text else []
            ids = ids if left is None else ids[:left]
            if ids:
                documents.append((text, ids))
                left = None if left is None else left - len(ids)
        batch: list[tuple[str, list[int]]] = []
        for text, ids in sorted(documents, key=lambda document: len(document[1])):
            if batch and (len(batch) + 1) * len(ids) > batch_tokens:
                yield batch
                batch = []
            batch.append((text, ids))
        if batch:
            yield batch
        if left == 0:
            return


def _keys(model: Model, rows: Sequence[list[int]], layers: Sequence[int]) -> dict[int, Float[Tensor, "n d_mlp"]]:
    """Keys of every real token of a right-padded batch; layers above the last one asked for are not run."""
    length = max(len(ids) for ids in rows)
    padded: Int[Tensor, "row pos"] = torch.zeros(len(rows), length, dtype=torch.long)
    real: Bool[Tensor, "row pos"] = torch.zeros(len(rows), length, dtype=torch.bool)
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = torch.tensor(ids)
        real[row, : len(ids)] = True
    found: dict[int, Tensor] = {}
    mask = real.to(model.device)

    def take(layer: int, activation: Tensor) -> None:
        found[layer] = activation.detach()[mask]

    hooks: list[tuple[str | Callable[..., Any], Callable[..., Any]]] = [
        (model.layout.key_hook(layer), lambda activation, hook, layer=layer: take(layer, activation))
        for layer in layers
    ]
    with torch.no_grad():
        model.bridge.run_with_hooks(
            padded.to(model.device), fwd_hooks=hooks, stop_at_layer=layers[-1] + 1, use_cache=False
        )
    if sorted(found) != list(layers):
        raise MechinterpError(
            f"the keys of {model.name} could not be read: the hook of a layer in {layers} never fired"
        )
    return found
