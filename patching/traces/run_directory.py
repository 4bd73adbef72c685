"""A run directory: the finished parts of a trace on disk, so that a killed run goes on and no row is lost or doubled.

manifest.json        what the run is: programs, model, prompts, seed, versions, and which prompts form a part
shards/00003.parquet one finished part, written aside and renamed
table.parquet        the whole table, once all parts are there
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import MechinterpError, UsageError
from ...runs.files import written_aside
from .planning import Plan
from .table import Table

TABLE = "table.parquet"
_FORMAT = 1
_NAMES = {
    "model": "model",
    "fingerprint": "model's weights",
    "programs": "programs",
    "prompts": "prompts",
    "foil": "foil",
    "seed": "seed",
    "noise_level": "noise level",
    "dtype": "dtype",
    "engine": "programs that run plainly",
    "versions": "versions of the libraries",
    "format": "format of the directory",
}


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run.

    Args:
        path: the folder.
        identity: what the run is, as in the manifest.
        groups: numbers of the prompts of each part.
    """

    path: Path
    identity: dict[str, Any]
    groups: tuple[tuple[int, ...], ...]

    @staticmethod
    def open(path: str | Path, plan: Plan) -> RunDirectory:
        """Make the folder of a plan, or continue the one that is there.

        Raises:
            UsageError: the folder holds another run, a table that is not from a run, or an unreadable manifest.
        """
        folder, wanted = Path(path), _identity(plan)
        manifest = folder / "manifest.json"
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{str(folder)!r} is a file; give the name of a folder for the run")
        if not manifest.exists():
            if (folder / TABLE).exists():
                raise UsageError(
                    f"{str(folder / TABLE)!r} is there but no manifest.json, so it is not from a run that could be "
                    "continued; choose another folder"
                )
            made = RunDirectory(folder, wanted, tuple(group.indices for group in plan.groups))
            with written_aside(manifest) as aside:
                content = {"identity": wanted, "groups": made.groups}
                aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
            return made
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
            found, groups = content["identity"], tuple(tuple(group) for group in content["groups"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{str(manifest)!r} is no readable manifest of a run; choose another folder") from error
        for name, words in _NAMES.items():
            if found.get(name) != wanted[name]:
                raise UsageError(
                    f"{str(folder)!r} holds another run: its {words} {_differ(found.get(name), wanted[name])}; choose "
                    "another folder, or ask for the same run again to continue it"
                )
        return RunDirectory(folder, wanted, groups)

    def missing(self) -> list[int]:
        """Numbers of the parts that are not finished."""
        return [number for number in range(len(self.groups)) if not self._is_there(number)]

    def write(self, number: int, frames: Sequence[pd.DataFrame], counts: dict[str, Any]) -> None:
        """Keep a finished part: a frame for each of its prompts."""
        meta = {"part": number, "run": self._key, "counts": counts, "rows": [len(frame) for frame in frames]}
        Table(pd.concat(frames, ignore_index=True), meta).save(self._shard(number))

    def read(self, number: int) -> tuple[list[pd.DataFrame], dict[str, Any]]:
        """The frames of a finished part's prompts, and what it counted.

        Raises:
            MechinterpError: it is not there, or it is not whole.
        """
        if not self._is_there(number):
            raise MechinterpError(
                f"part {number} of the run {str(self.path)!r} is not there; start the same run again to compute it"
            )
        table = Table.load(self._shard(number))
        ends = list(accumulate(table.meta["rows"]))
        frames = [table.frame.iloc[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return frames, table.meta["counts"]

    def clear_parts(self) -> None:
        """Remove what killed processes left half written."""
        for left in self.path.rglob(".*.part"):
            left.unlink(missing_ok=True)

    @property
    def _key(self) -> str:
        return hashlib.sha256(json.dumps([self.identity, self.groups], sort_keys=True).encode()).hexdigest()

    def _shard(self, number: int) -> Path:
        return self.path / "shards" / f"{number:05}.parquet"

    def _is_there(self, number: int) -> bool:
        try:
            meta = Table.load_meta(self._shard(number))
        except UsageError:  # not there, or cut short by a full disk: computed again
            return False
        return meta.get("run") == self._key and meta.get("part") == number


def _identity(plan: Plan) -> dict[str, Any]:
    """What decides the numbers of a run."""
    prompts = hashlib.sha256()
    for one in plan.asked:
        content = [one.prompt.prompt.name, one.prompt.prompt.relation, one.prompt.ids, one.prompt.subject, one.answer]
        prompts.update(json.dumps(content).encode())
    meta = plan.meta
    return {
        "format": _FORMAT,
        **{name: meta[name] for name in ("model", "fingerprint", "programs", "seed", "noise_level", "dtype")},
        "prompts": f"{len(plan.asked)} ({prompts.hexdigest()[:16]})",
        "foil": plan.foil,
        "engine": sorted(str(program) for program in plan.plain),
        "versions": meta["versions"],
    }


def _differ(found: object, wanted: object) -> str:
    if isinstance(found, (str, int, float)) and isinstance(wanted, (str, int, float)):
        short = [str(value)[:16] if len(str(value)) > 60 else str(value) for value in (found, wanted)]
        return f"is {short[0]}, not {short[1]}"
    return "are others"
