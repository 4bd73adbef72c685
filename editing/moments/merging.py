"""Merging second moments of one layer, collected from different texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ...errors import UsageError
from ...runs.hashing import TextHash, short
from .moments import SecondMoment


def merge_moments(parts: Sequence[SecondMoment]) -> SecondMoment:
    """One moment from several of the same layer and model, each from texts of its own; repairs are dropped.

    Raises:
        UsageError: none given, of different layers or models, two of the same texts, or one without texts.
    """
    if not parts:
        raise UsageError("there is no second moment to merge")
    first = parts[0]
    for part in parts:
        if (part.layer, part.model) != (first.layer, first.model):
            raise UsageError(
                f"second moments of layer {first.layer} of model {short(first.model)} and of layer "
                f"{part.layer} of model {short(part.model)} cannot be merged"
            )
        if not part.from_text:
            raise UsageError(f"{part} was not collected from text, so it has no weight next to others")
    if len({part.texts for part in parts}) < len(parts):
        raise UsageError("two of these second moments are of the same texts, which would be counted twice; leave one")
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
