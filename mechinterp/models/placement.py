"""Where a model's weights are: on one device, on several, or waiting in memory or on disk until a layer runs.

transformers and accelerate place a model by its `device_map`; what is offloaded is a placeholder ("meta") until its
module is called.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor


def device_of(hf_model: Any) -> torch.device:
    """Where token ids go and logits come from: where the model is, or the first device that its map runs layers on."""
    placed: dict[str, Any] = getattr(hf_model, "hf_device_map", None) or {}
    for place in placed.values():
        if str(place) not in ("cpu", "disk"):
            return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
    resident = (parameter.device for parameter in hf_model.parameters() if not parameter.is_meta)
    return torch.device("cpu") if placed else next(resident, torch.device("cpu"))


def is_spread(hf_model: Any) -> bool:
    """Whether a device_map has put its parts in several places."""
    return len({str(place) for place in (getattr(hf_model, "hf_device_map", None) or {}).values()}) > 1


def is_offloaded(hf_model: Any) -> bool:
    """Whether some weights are not resident."""
    return any(parameter.is_meta for parameter in hf_model.parameters())


def fetched(hf_model: Any, name: str, tensor: Tensor) -> Tensor:
    """A weight with its values, read from where it waits if it is a placeholder.

    Args:
        hf_model: the model.
        name: of the weight in its state dict.
        tensor: what the state dict has.
    """
    if not tensor.is_meta:
        return tensor
    owner, _, leaf = name.rpartition(".")
    module = hf_model.get_submodule(owner)
    with align_module_device(module):
        return getattr(module, leaf).detach().clone()  # the module gives it up again when the block ends
