"""Where a model can be put on this machine, looked at before anything is read."""

from __future__ import annotations

import torch

from ..errors import UsageError


def check_device(name: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        UsageError: no device has this name, or there is none here.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"there is no device {name!r}; {_there()}") from error
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "meta": 0}
    count = there.get(device.type)
    if count is None:
        count = _rare(device.type)
    if not count or (device.type != "cpu" and (device.index or 0) >= count):
        raise UsageError(f"this machine has no device {name!r}; {_there()}")


def _rare(kind: str) -> int:
    """How many there are of the rarer kinds (xpu, hpu, ...), by the module that PyTorch has for each."""
    try:
        module = torch.get_device_module(kind)
        return int(module.device_count()) if module.is_available() else 0
    except (RuntimeError, AttributeError):
        return 0


def _there() -> str:
    found = ["cpu"]
    found += [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    return f"it has {', '.join(found)}" if len(found) > 1 else "it has cpu alone"
