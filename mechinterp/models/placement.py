"""Where a model's weights are: on one device, on several, or waiting in memory or on disk until a layer runs.

transformers and accelerate place a model by its `device_map`; what is offloaded is a placeholder ("meta") until its
module is called.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor

from ..errors import UsageError


def dtype_of(named: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype, or what its name says.

    Raises:
        UsageError: there is none of this name, or its numbers are no floating-point numbers.
    """
    found = getattr(torch, named, None) if isinstance(named, str) else named
    if found is None and named is None:
        return None
    if not isinstance(found, torch.dtype):
        raise UsageError(f"there is no dtype {named!r}; choose float32, float64, bfloat16 or float16")
    if not found.is_floating_point or found.itemsize < 2:
        raise UsageError(f"a model does not run in {found}; choose float32, float64, bfloat16 or float16")
    return found


def named_device(named: torch.device | str | None) -> torch.device:
    """A device as PyTorch names it, whether or not it is there; None: the CPU.

    Raises:
        UsageError: no device has such a name.
    """
    try:
        return torch.device("cpu" if named is None else named)
    except (RuntimeError, TypeError) as error:
        raise UsageError(_no_device(named)) from error


def check_device(named: torch.device | str | None) -> None:
    """Refuse a device that is not there.

    Raises:
        UsageError: there is none of this name here.
    """
    try:
        there = torch.empty(0, device=named_device(named)).device.type != "meta"
    except (RuntimeError, AssertionError, NotImplementedError):
        there = False
    if not there:
        raise UsageError(_no_device(named))


def _no_device(named: object) -> str:
    here = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else ""
    return f"there is no device {str(named)!r} here; choose cpu{f' or {here}' * bool(here)}"


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
