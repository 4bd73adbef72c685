"""The one format of tensor files: safetensors with a JSON header of our own and a digest of all that is in them.

The digest stands in the metadata, where any reader of safetensors passes it by.  It is over the kind, the header, and
the name, shape, dtype and bytes of every tensor, so that a bit that flips anywhere either is noticed or is in none of
these.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import dumps, loads
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import DamagedError, UsageError
from .files import reading, written_aside
from .hashing import tensor_hash

_KIND, _HEADER, _DIGEST = "kind", "header", "sha256"


def write_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and their header; a reader never sees a half-written file.

    Args:
        path: the file.
        kind: what it holds, in words.
        tensors: by name.
        header: whatever JSON can hold.

    Raises:
        StorageError: it cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {_KIND: kind, _HEADER: dumps(header, sort_keys=True)}
    with written_aside(path) as aside, tensors_written():
        save_file(plain, aside, metadata={**about, _DIGEST: _digest(about, plain)})


@contextmanager
def tensors_written() -> Iterator[None]:
    """What the operating system says while safetensors writes, as the `OSError` that it is everywhere else."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else 0, str(error)) from error


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        UsageError: no such file, a file of another kind, or one without a digest.
        DamagedError: it does not hold what was written, or is cut short.
        StorageError: it may not be read.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError(f"there is no {kind} file {str(source)!r}; check the path")
    try:
        with reading(source), safe_open(source, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, ValueError) as error:
        raise DamagedError(f"{str(source)!r} is damaged or cut short and cannot be read ({error})") from error
    if _KIND not in about:
        raise UsageError(f"{str(source)!r} is no {kind} file; it holds other tensors")
    if _DIGEST not in about:
        raise UsageError(
            f"{str(source)!r} carries no digest of its data (another program or an older version wrote it), so nothing "
            "says that it is whole; make it again"
        )
    written = about.pop(_DIGEST)
    if _digest(about, tensors) != written:
        raise DamagedError(f"{str(source)!r} is damaged: it does not hold what was written; make it again")
    if about[_KIND] != kind:
        raise UsageError(f"{str(source)!r} is no {kind} file; it holds {about[_KIND]}")
    return tensors, loads(about[_HEADER])


def _digest(about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensor_hash(tensors[name])}".encode())
    return digest.hexdigest()
