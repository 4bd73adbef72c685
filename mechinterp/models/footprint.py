"""How much memory a model's weights need, known from the headers of its files before anything is read."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from huggingface_hub import constants, get_safetensors_metadata, try_to_load_from_cache

from ..errors import MechinterpError
from .placement import named_device
from .weight_files import gguf_parameters, is_gguf, shards

_BITS = {
    "F64": 64, "I64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "F8_E4M3": 8,
    "F8_E5M2": 8, "I8": 8, "U8": 8, "BOOL": 8,
}  # fmt: skip
_LONGEST_HEADER = 100_000_000
"""The format's own limit in bytes."""
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Footprint:
    """The weights of a checkpoint.

    Args:
        parameters: how many numbers.
        stored: bytes as they are on disk.
        loaded: bytes in memory with the dtype asked for.
    """

    parameters: int
    stored: int
    loaded: int

    def __str__(self) -> str:
        return f"{self.parameters / 1e6:,.1f} million parameters, {size(self.loaded)} in memory"


def footprint(source: str | Path, dtype: torch.dtype | None = None) -> Footprint | None:
    """What the weights in a folder, or of a hub name, will take; of those on the hub only the headers are asked for.

    Args:
        source: as `checkpoints.locate` gives it.
        dtype: of the loaded model; None: as its configuration says, or as stored.

    Returns:
        None where it cannot be known before reading: the hub is not asked or does not say, or the files are no
        safetensors files.
    """
    if is_gguf(source):
        parameters = gguf_parameters(source)
        return Footprint(parameters, os.path.getsize(source), parameters * (dtype or torch.float32).itemsize)
    parameters = stored = loaded = 0
    dtype = dtype or _configured(source)
    files = _weight_files(source)
    tensors = [entry for file in files for entry in _tensors(file)] if files else _on_the_hub(str(source))
    for kind, numbers in tensors:
        bits = _BITS.get(kind, 8)
        parameters += numbers
        stored += numbers * bits // 8
        loaded += numbers * (dtype.itemsize if dtype is not None and kind in _FLOATS else bits // 8)
    return Footprint(parameters, stored, loaded) if parameters else None


def _folder(source: str | Path) -> Path | None:
    """Where the files of a folder or hub name lie on this machine."""
    if Path(source).is_dir():
        return Path(source)
    cached = try_to_load_from_cache(str(source), "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def _configured(source: str | Path) -> torch.dtype | None:
    """The dtype in which transformers loads a checkpoint that was stored in another."""
    folder = _folder(source)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return None
    name = (config.get("dtype") or config.get("torch_dtype")) if isinstance(config, dict) else None
    found = getattr(torch, name, None) if isinstance(name, str) else None
    return found if isinstance(found, torch.dtype) else None


def _weight_files(source: str | Path) -> list[Path]:
    folder = _folder(source)
    if folder is None:
        return []
    named = [file for file in shards(folder) if file.is_file()]
    return named or sorted(folder.glob("model.safetensors")) or sorted(folder.glob("*.safetensors"))


def _on_the_hub(name: str) -> list[tuple[str, int]]:
    """Dtypes and numbers of entries as the hub tells them."""
    if constants.HF_HUB_OFFLINE or Path(name).is_dir():
        return []
    try:
        return list(get_safetensors_metadata(name).parameter_count.items())
    except Exception:  # an estimate is no reason to stop; loading says what is wrong
        return []


def _tensors(file: Path) -> list[tuple[str, int]]:
    """Dtype and number of entries of each tensor, from the first bytes of a safetensors file; none of another file."""
    with file.open("rb") as opened:
        length = struct.unpack("<Q", opened.read(8).ljust(8, b"\0"))[0]
        try:
            header = json.loads(opened.read(min(length, _LONGEST_HEADER)))
        except ValueError:
            return []
    try:
        return [(entry["dtype"], prod(entry["shape"])) for name, entry in header.items() if name != "__metadata__"]
    except (AttributeError, KeyError, TypeError):  # no header of safetensors; loading says what is wrong with it
        return []


def memory_of(device: str | torch.device | None) -> int | None:
    """All memory that a device has, in bytes; None where nobody says."""
    place = named_device(device)
    if place.type == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(place).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def check_fits(
    source: str | Path,
    name: str,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    *,
    spread: bool = False,
) -> None:
    """Refuse weights that cannot fit, before minutes are spent on reading them.

    Args:
        source: folder or hub name.
        name: for the message.
        device: where the weights go.
        dtype: of the loaded model.
        spread: a device_map spreads them over several places; then nothing is refused.

    Raises:
        MechinterpError: the weights alone are larger than all memory of the device.
    """
    need, have = footprint(source, dtype), memory_of(device)
    if spread or need is None or have is None or need.loaded <= have:
        return
    raise MechinterpError(
        f"{name} has {need}, and {'this machine' if device is None else device} has {size(have)}; load it with "
        "dtype=torch.bfloat16, on a larger device, or with device_map='auto' and offload_folder= (then it is traced, "
        "not edited)"
    )


def size(count: int) -> str:
    """Bytes as people write them."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
