"""Finished trials of a leaderboard on disk, so that a killed run goes on where it stopped.

journal.jsonl                   what the trials belong to
parts/<key>.trial.parquet       a finished trial: its records, its cost and notes among the metadata
parts/<key>.before.parquet, ... its retention, where a sequence was looked at on its way

A trial is there once its first file is, which is written last; every file says which evaluation and trial it is of.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import DamagedError, MechinterpError, UsageError
from ...runs.files import clear_aside
from ...runs.folder import OutFolder
from ...runs.frames import read_frame, read_frame_meta, write_frame
from ...runs.identity import Identity, Manifest
from ..evaluation.retention import Retention
from .making import Trial

_MANIFEST, _PARTS = "journal.jsonl", "parts"
NAMES = (_MANIFEST, _PARTS)
"""What an evaluation writes into its folder."""

_TRIAL = "trial"
_FRAMES = ("records", "before", "perplexity")
"""Of a `Retention`."""


class TrialStore:
    """Trials by key, in memory and, with a folder, on disk.

    Args:
        folder: where; None keeps the trials in memory only.
        identity: what the trials belong to.
    """

    def __init__(self, folder: OutFolder | None, identity: Identity) -> None:
        self.folder, self._identity = folder, identity
        self._trials: dict[str, Trial] = {}

    def locked(self) -> Any:
        """Keep other processes out of the folder for the length of a block."""
        return nullcontext() if self.folder is None else self.folder.locked()

    def open(self) -> None:
        """Make the folder, or go on with the evaluation that is there.

        Raises:
            UsageError: it holds trials of something else, or files of these names that no evaluation wrote.
            StorageError: it cannot be written.
        """
        if self.folder is None:
            return
        self.folder.claim(*NAMES)
        Manifest(self.folder, _MANIFEST, self._identity).open(self._kept)

    def missing(self, keys: Sequence[str], *, told: bool = False) -> list[str]:
        """Those of these trials that are not kept, or are damaged, each once.

        Args:
            keys: of trials.
            told: warn of damaged ones.
        """
        return [key for key in dict.fromkeys(keys) if not self._is_kept(key, told=told)]

    def __contains__(self, key: str) -> bool:
        return key in self._trials or self._is_kept(key)

    def __getitem__(self, key: str) -> Trial:
        if key not in self._trials:
            self._trials[key] = self._read(key)
        return self._trials[key]

    def add(self, key: str, trial: Trial) -> None:
        """Keep a finished trial.

        Raises:
            StorageError: it is in memory only.
        """
        self._trials[key] = trial
        if self.folder is None:
            return
        if not (self.folder / _MANIFEST).exists():
            raise MechinterpError(f"the folder {str(self.folder)!r} of the evaluation is gone")
        looked = trial.retention
        if looked is not None:
            for name in _FRAMES:
                write_frame(self._path(key, name), getattr(looked, name), self._belongs(key))
        more = {"cost": trial.cost, "notes": list(trial.notes), "retention": looked is not None}
        write_frame(self._path(key, _TRIAL), trial.records, {**self._belongs(key), **more})

    def clear_parts(self, keys: Sequence[str]) -> None:
        """Remove what killed processes left half written."""
        if self.folder is not None:
            parts = (self._path(key, name) for key in keys for name in (_TRIAL, *_FRAMES))
            clear_aside(*parts, self.folder / _MANIFEST)

    def _belongs(self, key: str) -> dict[str, Any]:
        """What each file says of itself."""
        return {"run": self._identity.key, "key": key}

    def _path(self, key: str, name: str) -> Path:
        assert self.folder is not None
        return self.folder / _PARTS / f"{key}.{name}.parquet"

    def _read(self, key: str) -> Trial:
        records, meta = read_frame(self._path(key, _TRIAL))
        looked = None
        if meta["retention"]:
            frames: list[pd.DataFrame] = [read_frame(self._path(key, name))[0] for name in _FRAMES]
            looked = Retention(*frames)
        return Trial(records, dict(meta["cost"]), tuple(meta["notes"]), looked)

    def _is_kept(self, key: str, *, told: bool = False) -> bool:
        if self.folder is None:
            return key in self._trials
        if not self._path(key, _TRIAL).exists():
            return False
        ours = self._belongs(key).items()
        try:
            meta = read_frame_meta(self._path(key, _TRIAL))
            names = _FRAMES if ours <= meta.items() and meta["retention"] else ()
            others = [read_frame_meta(self._path(key, name)) for name in names]
        except (DamagedError, UsageError) as error:
            if told:
                warnings.warn(f"{error}; this trial is made again", stacklevel=2)
            return False
        return all(ours <= one.items() for one in (meta, *others))

    def _kept(self) -> Iterator[str]:
        """Of each finished trial the evaluation it belongs to."""
        assert self.folder is not None
        for file in sorted((self.folder / _PARTS).glob(f"*.{_TRIAL}.parquet")):
            try:
                yield str(read_frame_meta(file).get("run"))
            except MechinterpError:  # damaged: nothing of it is left
                continue
