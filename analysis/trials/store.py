"""Finished trials of a leaderboard on disk, so that a killed run goes on where it stopped.

`journal.jsonl` has a line per finished trial with its cost; its records stand beside it in `parts/`, as Parquet that is
written whole before the line is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ...runs.files import written_aside
from ...runs.journal import Journal
from ..evaluation.retention import Retention
from .making import Trial

_FRAMES = ("records", "before", "perplexity")
"""Of a `Retention`."""


class TrialStore:
    """Trials by key, in memory and, with a folder, on disk.

    Args:
        folder: made if it is not there; None keeps the trials in memory only.
        header: what the trials belong to.

    Raises:
        UsageError: the folder holds trials of something else.
    """

    def __init__(self, folder: str | Path | None, header: Mapping[str, Any]) -> None:
        self._folder = None if folder is None else Path(folder)
        self._journal = Journal(None if self._folder is None else self._folder / "journal.jsonl", header)
        self._trials: dict[str, Trial] = {}
        for line in self._journal.records:
            self._trials[line["key"]] = self._read(line)

    def __contains__(self, key: str) -> bool:
        return key in self._trials

    def __getitem__(self, key: str) -> Trial:
        return self._trials[key]

    def add(self, key: str, trial: Trial) -> None:
        """Keep a finished trial."""
        self._trials[key] = trial
        if self._folder is None:
            return
        self._write(key, "trial", trial.records)
        if trial.retention is not None:
            for name in _FRAMES:
                self._write(key, name, getattr(trial.retention, name))
        retained = trial.retention is not None
        self._journal.add({"key": key, "cost": trial.cost, "notes": list(trial.notes), "retention": retained})

    def _read(self, line: Mapping[str, Any]) -> Trial:
        frames = {name: self._part(line["key"], name) for name in ("trial", *(_FRAMES if line["retention"] else ()))}
        looked = Retention(*(frames[name] for name in _FRAMES)) if line["retention"] else None
        return Trial(frames["trial"], dict(line["cost"]), tuple(line["notes"]), looked)

    def _path(self, key: str, name: str) -> Path:
        assert self._folder is not None
        return self._folder / "parts" / f"{key}.{name}.parquet"

    def _part(self, key: str, name: str) -> pd.DataFrame:
        return pd.read_parquet(self._path(key, name))

    def _write(self, key: str, name: str, frame: pd.DataFrame) -> None:
        with written_aside(self._path(key, name)) as path:
            frame.to_parquet(path, index=False)
