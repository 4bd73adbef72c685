"""Which layers are edited in which model, published or measured here: data with its source (`families.toml`)."""

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

    A bundled model is known by its weights.  Others are known by their name on the hub and all their sizes: models of
    one shape can have been trained apart, and then keep what they know elsewhere.
    """
    names = {_plain(model.name), _plain(model.source)}
    for entry in _entries():
        if entry.get("bundled", "") != model.bundled:
            continue
        if model.bundled or (_same_shape(entry, model) and names & set(entry["called"])):
            return Family(entry["name"], entry, entry["source"])
    return None


def _same_shape(entry: Mapping[str, Any], model: Model) -> bool:
    return not model.bundled and all(entry.get(size) == getattr(model, size) for size in _SIZES)


def _plain(name: str) -> str:
    """A hub name, a folder or a place in the hub's cache as the model's own name in small letters."""
    parts = name.replace("\\", "/").rstrip("/").split("/")
    cached = next((part for part in parts if part.startswith("models--")), parts[-1])
    return cached.split("--")[-1].lower()


def _like(model: Model, editor: str) -> str:
    """What is edited in a model of the same shape, which this one may have been trained from."""
    for entry in _entries():
        if _same_shape(entry, model) and editor in entry:
            layers = ", ".join(map(str, entry[editor]))
            return f", which has the shape of {entry['name']} and not its name (there: {layers})"
    return ""


def _usual(n_layers: int) -> str:
    low, high = round(0.3 * n_layers), round(0.4 * n_layers)
    return f"layer {low}" if low == high else f"layers {low} to {high}"


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
            f"layers){_like(model, editor)}; trace it and pass the layers (--layer) about where restoring the last "
            f"subject token's MLP helps, or from .3 to .4 of the depth: {_usual(model.n_layers)}"
        )
    return tuple(family.figures[editor])
