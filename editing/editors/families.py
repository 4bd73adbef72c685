"""Which layers publications edit in which model: data with its source (`families.toml`)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ...errors import UsageError
from ...models.model import Model


@dataclass(frozen=True)
class Family:
    """What is known of editing one model.

    Args:
        name: of the model, for messages.
        figures: editor -> layers, and other figures by their names in `families.toml`.
        source: where they come from.
    """

    name: str
    figures: dict[str, Any]
    source: str


@cache
def _entries() -> tuple[dict[str, Any], ...]:
    text = resources.files(__package__).joinpath("families.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["family"])


_SIZES = ("architecture", "n_layers", "d_model", "n_heads")


def family_of(model: Model) -> Family | None:
    """What is known of editing this model; None where nothing is.

    A bundled model is known by its weights and others by all their sizes: models of one class and depth that differ in
    width were trained apart, and keep what they know elsewhere.
    """
    for entry in _entries():
        if entry.get("bundled", "") != model.bundled:
            continue
        if model.bundled or all(entry[size] == getattr(model, size) for size in _SIZES):
            return Family(entry["name"], entry, entry["source"])
    return None


def family_preset(model: Model, preset: str, presets: Mapping[str, object]) -> str:
    """The preset of the model's family, "code-gpt2-xl" for "code" say, where there is one; else the one named."""
    family = family_of(model)
    own = preset if family is None else f"{preset}-{family.figures.get('preset', '')}"
    return own if own in presets else preset


def default_layers(model: Model, editor: str) -> tuple[int, ...]:
    """The layers an editor changes in this model by default.

    Args:
        model: the model.
        editor: "rome", "memit", ...: whose layers, as `families.toml` names them.

    Raises:
        UsageError: none are known for it.
    """
    family = family_of(model)
    if family is None or editor not in family.figures:
        raise UsageError(
            f"no published layers of {editor} are known for {model.name} ({model.architecture}, {model.n_layers} "
            "layers); trace it and pass the layers where restoring the last subject token's MLP helps most"
        )
    return tuple(family.figures[editor])
