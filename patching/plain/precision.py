"""What a number is good for: the finest precision of a device, and what rounding explains in the model's."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
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


def check_tolerance(dtype: torch.dtype) -> tuple[float, float]:
    """Largest difference between the two executors that rounding explains: in probability, and in nats."""
    if dtype == torch.float64:
        return 1e-10, 5e-9
    if dtype == torch.float32:
        return 2e-5, 1e-3
    step = torch.finfo(dtype).eps
    # Logits of a few tens are rounded to tens of steps, and a probability by a share of itself that is as large.
    return 16 * step, 128 * step


def resolution(logits: Float[Tensor, "rows kept vocab"], dtype: torch.dtype) -> float:
    """The largest change in probability that one step of a logit's last digit can make.

    dp = p (1 - p) dl, at most dl / 4, where dl is the spacing of the dtype's numbers at the largest of the logits.  A
    difference of probability below it cannot be told from rounding.

    Args:
        logits: of some runs.
        dtype: in which they were computed.
    """
    largest = float(logits.abs().max())
    spacing = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(largest)) if largest > 0 else 0.0
    return min(spacing / 4, 1.0)
