"""Safetensors files with a JSON header of our own: written aside and renamed, checked when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import MechinterpError, UsageError
from .files import written_aside


def write_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and their header; a reader never sees a half-written file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_aside(path) as aside:
        save_file(plain, aside, metadata={"kind": kind, "header": json.dumps(header, sort_keys=True)})


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        UsageError: no such file, or a file of another kind.
        MechinterpError: the file is damaged or cut short.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError(f"there is no {kind} file {str(source)!r}; check the path")
    try:
        with safe_open(source, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise MechinterpError(f"{str(source)!r} is damaged or cut short and cannot be read ({error})") from error
    if metadata.get("kind") != kind:
        raise UsageError(f"{str(source)!r} is no {kind} file; it holds {metadata.get('kind') or 'other tensors'}")
    try:
        header: dict[str, Any] = json.loads(metadata["header"])
    except (KeyError, json.JSONDecodeError) as error:
        raise MechinterpError(f"the header of {str(source)!r} is damaged ({error})") from error
    return tensors, header
