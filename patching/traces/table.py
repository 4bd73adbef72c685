"""The long table of a trace: one row per cell and draw, the metrics as columns, and what it was made with.

| column | meaning |
|---|---|
| prompt, relation | name and relation of the prompt |
| foil | the answer that logit_diff compares with, as it stands behind the prompt |
| run | "clean", "corrupted", "patched", or "ablated", which is compared with "clean" |
| component, window, severed | what was restored or ablated, in how many layers at once, and what was severed ("none") |
| position, token, role, layer, head | where; -1 and "" for clean and corrupted rows, and where it is several at once |
| draw | which noise draw; draws of one prompt are paired across all its rows |
| prob, log_prob, logit_diff, rank, kl | see `patching.metrics` |
| others | metrics of the user's own; `meta["metrics"]` has their units and directions |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import UsageError
from ...public import public
from ...runs.frames import read_frame, write_frame
from ..plain.metrics import METRICS

COLUMNS = (
    "prompt", "relation", "foil", "run", "component", "window", "severed", "position", "token", "role", "layer",
    "head", "draw", *METRICS,
)  # fmt: skip

CELLS = ("patched", "ablated")
"""Runs that are cells of a grid."""

_NEWER = {"foil": "", "head": -1}
"""Columns that tables of earlier versions lack, and what stands in them then."""


@dataclass(frozen=True, eq=False)
class Table:
    """A trace as a pandas frame with its metadata.

    Args:
        frame: the rows, columns as in `COLUMNS`.
        meta: model, fingerprint, seed, noise level, programs, versions, warnings.
    """

    frame: pd.DataFrame
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        new = {name: value for name, value in _NEWER.items() if name not in self.frame.columns}
        if new:
            object.__setattr__(self, "frame", self.frame.assign(**new))
        missing = [column for column in COLUMNS if column not in self.frame.columns]
        if missing:
            raise UsageError(f"this frame is no trace: it lacks the columns {', '.join(missing)}")

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        restored = ", ".join(name for name in dict.fromkeys(self.frame["component"]) if name)
        called = f" of {self.meta['model']}" if "model" in self.meta else ""
        what = f"{len(self.prompts)} prompts, restored {restored or 'nothing'}"
        return f"Table({len(self)} rows{called}: {what}; see .frame and .meta)"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the columns that are metrics: the standard ones and the user's own."""
        return (*METRICS, *self.meta.get("metrics", {}))

    @property
    def prompts(self) -> list[str]:
        """Names of the prompts, in the order in which they were given."""
        return list(dict.fromkeys(self.frame["prompt"]))

    @public
    def save(self, path: str | Path) -> Path:
        """Write as Parquet, which any reader takes, with the metadata and a digest of all of it.

        Raises:
            StorageError: it cannot be written; the table is still in memory.
        """
        write_frame(path, self.frame, self.meta)
        return Path(path)

    @staticmethod
    @public
    def load(path: str | Path) -> Table:
        """Read a table written by `save`.

        Raises:
            UsageError: no such file, or a Parquet file that is no trace or carries no digest.
            DamagedError: the file does not hold what was written, or is cut short.
        """
        frame, meta = read_frame(path, "table of a trace")
        return Table(frame, meta)
