"""A run directory: the finished parts of a trace on disk, so that a killed run goes on and no row is lost or doubled.

manifest.json        what the run is: programs, model, prompts, seed, versions, and which prompts form a part
shards/00003.parquet one finished part, written aside and renamed
table.parquet        the whole table, once all parts are there
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import DamagedError, MechinterpError, UsageError
from ...runs.files import clear_aside
from ...runs.folder import OutFolder
from ...runs.frames import read_frame, read_frame_meta, write_frame
from ...runs.identity import Identity, Manifest
from .planning import Plan

TABLE = "table.parquet"
_MANIFEST, _SHARDS = "manifest.json", "shards"
NAMES = (_MANIFEST, _SHARDS, TABLE)
"""What a run writes into its folder."""

_WORDS = {
    "fingerprint": "model's weights",
    "guests": "edits and hooks that take part",
    "engine": "programs that run plainly",
}


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run.

    Args:
        folder: the folder.
        identity: what the run is, as in the manifest.
        groups: numbers of the prompts of each part.
    """

    folder: OutFolder
    identity: Identity
    groups: tuple[tuple[int, ...], ...]

    @staticmethod
    def open(folder: OutFolder, plan: Plan) -> RunDirectory:
        """Make the folder of a plan, or continue the one that is there.

        Raises:
            UsageError: the folder holds another run, or files of these names that no run wrote.
            StorageError: it cannot be written.
        """
        folder.claim(*NAMES)
        identity = _identity(plan)
        groups = Manifest(folder, _MANIFEST, identity).open(
            lambda: _kept(folder.path), [list(group.indices) for group in plan.groups]
        )
        return RunDirectory(folder, identity, tuple(tuple(group) for group in groups))

    @property
    def path(self) -> Path:
        """Of the folder."""
        return self.folder.path

    def missing(self, *, told: bool = False) -> list[int]:
        """Numbers of the parts that are not finished, or are damaged.

        Args:
            told: warn of damaged ones.
        """
        return [number for number in range(len(self.groups)) if not self._is_there(number, told=told)]

    def write(self, number: int, frames: Sequence[pd.DataFrame], counts: dict[str, Any]) -> None:
        """Keep a finished part: a frame for each of its prompts.

        Raises:
            StorageError: it cannot be written.
            MechinterpError: the folder of the run is gone.
        """
        if not (self.folder / _MANIFEST).exists():
            raise MechinterpError(f"the run directory {str(self.path)!r} is gone")
        meta = {**self._belongs(number), "counts": counts, "rows": [len(frame) for frame in frames]}
        write_frame(self._shard(number), pd.concat(frames, ignore_index=True), meta)

    def read(self, number: int) -> tuple[list[pd.DataFrame], dict[str, Any]]:
        """The frames of a finished part's prompts, and what it counted.

        Raises:
            MechinterpError: it is not there, or it is not whole.
        """
        if not self._is_there(number):
            raise MechinterpError(
                f"part {number} of the run {str(self.path)!r} is not there or damaged; start the same run again to "
                "compute it"
            )
        frame, meta = read_frame(self._shard(number))
        ends = list(accumulate(meta["rows"]))
        frames = [frame.iloc[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return frames, meta["counts"]

    def clear_parts(self) -> None:
        """Remove what killed processes left half written."""
        shards = map(self._shard, range(len(self.groups)))
        clear_aside(*shards, self.folder / TABLE, self.folder / _MANIFEST)

    def _belongs(self, number: int) -> dict[str, Any]:
        """What a part says of itself: its number, its run, its prompts."""
        return {"part": number, "run": self.identity.key, "prompts": list(self.groups[number])}

    def _shard(self, number: int) -> Path:
        return self.folder / _SHARDS / f"{number:05}.parquet"

    def _is_there(self, number: int, *, told: bool = False) -> bool:
        shard = self._shard(number)
        if not shard.exists():
            return False
        try:
            meta = read_frame_meta(shard, "part of a run")
        except (DamagedError, UsageError) as error:
            if told:
                warnings.warn(f"{error}; this part of the run is computed again", stacklevel=2)
            return False
        return all(meta.get(name) == value for name, value in self._belongs(number).items())


def _kept(folder: Path) -> Iterator[str]:
    """Of each finished part the run it belongs to; a table whose parts are gone belongs to some run, too."""
    keys = []
    for shard in sorted((folder / _SHARDS).glob("*.parquet")):
        try:
            keys.append(str(read_frame_meta(shard).get("run")))
        except MechinterpError:  # damaged: nothing of it is left
            continue
    yield from keys or ["a table"] * (folder / TABLE).exists()


def _identity(plan: Plan) -> Identity:
    """What decides the numbers of a run."""
    prompts = hashlib.sha256()
    for one in plan.asked:
        content = [one.prompt.prompt.name, one.prompt.prompt.relation, one.prompt.ids, one.prompt.subject, one.answer]
        prompts.update(json.dumps(content).encode())
    meta, foils = plan.meta, [one.foil for one in plan.asked]
    fields = {
        **{name: meta[name] for name in ("model", "fingerprint", "programs", "seed", "noise_level", "dtype", "guests")},
        "prompts": f"{len(plan.asked)} ({prompts.hexdigest()[:16]})",
        "foil": foils[0] if len(set(foils)) == 1 else foils,
        **({"metrics": [one.identity for one in plan.metrics]} if plan.metrics else {}),
        "engine": sorted(str(program) for program in plan.plain),
    }
    return Identity.of("run", fields, _WORDS)
