"""Second moments of a real model, collected once and found again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mechinterp.editing import SecondMoment, collect_moments
from mechinterp.editing.editors.families import default_layers
from mechinterp.errors import UsageError
from mechinterp.models.model import Model

from .setting import results, texts_of

DEPTH = 0.4
"""Where edits of single facts worked best in a first look, as a share of the depth, for models without known layers."""


def moments_at(model: Model, args: argparse.Namespace, layers: Sequence[int]) -> dict[int, SecondMoment]:
    """The second moments of these layers over the first `args.tokens` tokens; those that are missing are collected.

    A collection that was killed goes on, where the same layers are asked for again.
    """
    folder = results(args) / "moments" / str(args.tokens)
    wanted = sorted(set(layers))
    there = {layer: path for layer in wanted for path in folder.glob(f"*/layer-{layer}.safetensors")}
    found = {layer: SecondMoment.load(path) for layer, path in there.items()}
    found = {layer: moment for layer, moment in found.items() if moment.complete}
    missing = [layer for layer in wanted if layer not in found]
    if missing:
        out = folder / "-".join(map(str, missing))
        found |= collect_moments(
            model, texts_of(args), missing, max_tokens=args.tokens, out=out, progress=not args.quiet
        )
    return {layer: found[layer] for layer in wanted}


def layer_of(model: Model, args: argparse.Namespace) -> int:
    """The layer that is edited: the one asked for, the known one, or at 0.4 of the depth."""
    if args.layer is not None:
        return model.layout.check_layer(args.layer)
    try:
        return default_layers(model, "rome")[0]
    except UsageError:
        return round(DEPTH * model.n_layers)
