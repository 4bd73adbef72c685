"""The long table of a trace: one row per cell and draw, the metrics as columns, and what it was made with.

| column | meaning |
|---|---|
| prompt, relation | name and relation of the prompt |
| run | "clean", "corrupted" or "patched" |
| component, window, severed | what was restored, in how many layers at once, and what was severed ("none") |
| position, token, role, layer | where; -1 and "" for clean and corrupted rows |
| draw | which noise draw; draws of one prompt are paired across all its rows |
| prob, log_prob, logit_diff, rank, kl | see `patching.metrics` |
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import UsageError
from ...runs.files import written_aside
from ..plain.metrics import METRICS

COLUMNS = (
    "prompt", "relation", "run", "component", "window", "severed", "position", "token", "role", "layer", "draw",
    *METRICS,
)  # fmt: skip
_META_KEY = b"mechinterp"


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
    def prompts(self) -> list[str]:
        """Names of the prompts, in the order in which they were given."""
        return list(dict.fromkeys(self.frame["prompt"]))

    def save(self, path: str | Path) -> Path:
        """Write as Parquet, metadata included."""
        arrow = pa.Table.from_pandas(self.frame, preserve_index=False)
        arrow = arrow.replace_schema_metadata(
            {**(arrow.schema.metadata or {}), _META_KEY: json.dumps(self.meta).encode()}
        )
        with written_aside(path) as aside:
            pq.write_table(arrow, aside, compression="zstd")
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> Table:
        """Read a table written by `save`.

        Raises:
            UsageError: no such file, a file cut short, or a Parquet file that is no trace.
        """
        arrow = _read(pq.read_table, path)
        return Table(arrow.to_pandas(), _meta(arrow.schema))

    @staticmethod
    def load_meta(path: str | Path) -> dict[str, Any]:
        """Only what a table was made with; raises as `load`."""
        return _meta(_read(pq.read_schema, path))


def _read(reader: Callable[[str | Path], Any], path: str | Path) -> Any:
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {str(path)!r}") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{str(path)!r} is no readable Parquet file (cut short?): {error}") from error


def _meta(schema: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((schema.metadata or {}).get(_META_KEY, b"{}"))
    return found
