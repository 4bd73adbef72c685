"""A journal of finished work: one JSON line per record, so that a killed experiment goes on where it stopped.

The first line says what the records belong to (model fingerprint, settings); a journal of something else is
refused. Each line is written and flushed whole; a line cut short by a kill is dropped on reading.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError


class Journal:
    """Records of one experiment, in memory and, with a path, on disk.

    Args:
        path: the file (made with its folder where missing); None keeps the records in memory only.
        header: what the records belong to; must equal the header of an existing file.

    Raises:
        UsageError: the file belongs to something else, or is no journal.
    """

    def __init__(self, path: str | Path | None, header: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.records: list[dict[str, Any]] = []
        if self.path is None:
            return
        wanted = json.loads(json.dumps(header))
        if self.path.exists() and self.path.stat().st_size:
            lines = self._whole_lines(self.path)
            if lines and lines[0] != wanted:
                differing = sorted(key for key in {*lines[0], *wanted} if lines[0].get(key) != wanted.get(key))
                raise UsageError(
                    f"{str(self.path)!r} belongs to another experiment (it differs in {', '.join(differing)}); "
                    "give another file, or remove it"
                )
            self.records = lines[1:]
            if lines:
                return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(wanted)

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep a finished record."""
        self.records.append(dict(record))
        if self.path is not None:
            self._write(record)

    def _write(self, record: Mapping[str, Any]) -> None:
        assert self.path is not None
        with self.path.open("ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _whole_lines(path: Path) -> list[dict[str, Any]]:
        """The lines that end; what follows the last line end is cut off the file."""
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except json.JSONDecodeError as error:
            raise UsageError(f"{str(path)!r} is no journal of an experiment: {error}; give another file") from error
        if not all(isinstance(line, dict) for line in lines):
            raise UsageError(f"{str(path)!r} is no journal of an experiment; give another file")
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        return lines
