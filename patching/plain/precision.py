"""Double precision, on devices that have it: Apple's GPUs do not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def finest(device: torch.device) -> torch.dtype:
    """The finest floating-point numbers that a device can hold."""
    return torch.float32 if device.type == "mps" else torch.float64


def on_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Numbers in float64 on a device, or in what it can hold."""
    return torch.from_numpy(values).to(finest(device)).to(device)


def exact(values: Tensor) -> Tensor:
    """In float64; on the CPU where the device has none."""
    return (values if finest(values.device) == torch.float64 else values.cpu()).double()
