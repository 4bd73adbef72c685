"""Which of the bundled models a model is: known by its weights, whatever it is called and wherever it was read from."""

from __future__ import annotations

import json
from typing import Any

from safetensors import safe_open

from .. import atlas
from .layout import original_names
from .placement import fetched

_SIZES = ("model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")


def bundled_name(hf_model: Any) -> str:
    """The name of the bundled model whose weights these are, in the precision they are in; "" for every other model.

    Weights are compared only where all sizes agree, so no other model waits for it.

    Args:
        hf_model: the model, bridged or not.
    """
    return next((name for name in atlas.names() if _is(hf_model, name)), "")


def _is(hf_model: Any, name: str) -> bool:
    folder = atlas.folder(name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if any(getattr(hf_model.config, size, None) != config[size] for size in _SIZES):
        return False
    state, names = hf_model.state_dict(), original_names(hf_model)
    with safe_open(folder / "model.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118 (no mapping)
            if key not in names:
                return False
            tensor = fetched(hf_model, names[key], state[names[key]]).cpu()
            shipped = file.get_tensor(key)
            if tensor.shape != shipped.shape or not bool((tensor == shipped.to(tensor.dtype)).all()):
                return False
    return True
