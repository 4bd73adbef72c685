"""The second moments of several layers: from files, from folders of files, or collected now for the bundled models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MechinterpError, UsageError

if TYPE_CHECKING:
    from ..editing import SecondMoment
    from ..models.model import Model

MOMENT_TOKENS = 60_000
"""Of the bundled corpus."""


def layer_moments(
    model: Model, layers: Sequence[int], paths: Sequence[Path], *, quiet: bool
) -> dict[int, SecondMoment]:
    """The second moment of each of some layers.

    Args:
        model: the model.
        layers: which.
        paths: files of `mechinterp moments`, folders with such files (`layer-N.safetensors`), or `.npz` files of the
            published rome and memit.
        quiet: no progress bar, where they are collected.

    Raises:
        UsageError: a path that is not there, two files of one layer, a layer that none of them is of (of a bundled
            model it is collected from the bundled corpus), or moments of another model.
        MechinterpError: interrupted while they were collected.
    """
    from .. import atlas
    from ..editing import SecondMoment, collect_moments, read_published_moment

    found: dict[int, SecondMoment] = {}
    for path in _files(paths, layers):
        published = path.suffix == ".npz"
        moment = read_published_moment(path, model) if published else SecondMoment.load(path, model)
        if moment.layer in found:
            raise UsageError(f"two of the --moments are of layer {moment.layer}; give one of them")
        found[moment.layer] = moment
    missing = [layer for layer in layers if layer not in found]
    if missing and model.bundled:
        texts = atlas.corpus(name=model.bundled)
        found |= collect_moments(model, texts, missing, max_tokens=MOMENT_TOKENS, progress=not quiet)
        if not all(found[layer].complete for layer in missing):
            raise MechinterpError("interrupted while keys were collected; nothing was edited")
    elif missing:
        words = " ".join(f"--layer {layer}" for layer in missing)
        raise UsageError(
            f"the second moments of layers {', '.join(map(str, missing))} of {model.name} are missing: run "
            f"`mechinterp moments {model.name} {words} --text FILE` and pass its folder with --moments"
        )
    return {layer: found[layer] for layer in layers}


def check_moments(paths: Sequence[Path]) -> None:
    """Look at whether the files and folders are there, before a model is loaded for them.

    Raises:
        UsageError: one is not, or a folder holds no second moment.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"--moments: there is no file or folder {str(path)!r}; check the path")
    _files(paths, ())


def _files(paths: Sequence[Path], layers: Sequence[int]) -> list[Path]:
    """The files, and of folders those of these layers: one second moment can take gigabytes."""
    wanted = {f"layer-{layer}.safetensors" for layer in layers}
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("layer-*.safetensors")) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"the folder {str(path)!r} holds no second moment (layer-N.safetensors)")
        files += [file for file in inside if file.name in wanted or not path.is_dir()]
    return files
