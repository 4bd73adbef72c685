"""Second moments on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ...runs.tensors import read_tensors, write_tensors
from .moments import SecondMoment
from .spectrum import Repair

_KIND = "second moment"
_HEADER = (
    "layer", "tokens", "model", "model_name", "documents", "texts", "fourth_moment", "complete", "versions",
)  # fmt: skip


def save_moments(moments: SecondMoment, path: str | Path) -> None:
    """Write the matrix in full precision and everything that says where it came from."""
    header = {name: getattr(moments, name) for name in _HEADER}
    header["repair"] = asdict(moments.repair) if moments.repair else None
    write_tensors(path, _KIND, {"matrix": moments.matrix}, header)


def load_moments(path: str | Path) -> SecondMoment:
    """Read a saved moment, without asking which model it is for."""
    tensors, header = read_tensors(path, _KIND)
    repair = Repair(**header["repair"]) if header["repair"] else None
    return SecondMoment(matrix=tensors["matrix"], repair=repair, **{name: header[name] for name in _HEADER})
