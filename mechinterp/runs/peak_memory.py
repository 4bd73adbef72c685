"""How much memory a process held at its peak while it did something.

On a GPU PyTorch's allocator knows.  On a CPU only the operating system does: Linux keeps the largest resident size of a
process and can be told to start anew; elsewhere it is the largest since the process began.  Both are of the whole
process, with the model and whatever else it holds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

GPU = "GPU memory allocated at the peak"
RESIDENT = "largest resident memory of the process meanwhile"
SINCE_START = "largest resident memory since the process began"
UNKNOWN = "not known on this system"

_MB = 1e6
_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass
class Peak:
    """What was measured, once the block has ended.

    Args:
        megabytes: NaN where nothing is known.
        kind: what they are megabytes of.
    """

    megabytes: float = float("nan")
    kind: str = UNKNOWN


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the memory of a block of work on this device."""
    found = Peak()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    anew = not on_gpu and _start_anew()
    yield found
    if on_gpu:
        found.megabytes, found.kind = torch.cuda.max_memory_allocated(device) / _MB, GPU
    elif anew:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        found.megabytes, found.kind = float(line.split()[1]) * 1024 / _MB, RESIDENT
    else:
        found.megabytes, found.kind = _since_start()


def _start_anew() -> bool:
    """Tell Linux to forget the largest resident size so far; False where that cannot be done."""
    try:
        _CLEAR.write_text("5")
        return "VmHWM:" in _STATUS.read_text()
    except OSError:
        return False


def _since_start() -> tuple[float, str]:
    try:
        import resource
    except ImportError:  # Windows
        return float("nan"), UNKNOWN
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB, SINCE_START
