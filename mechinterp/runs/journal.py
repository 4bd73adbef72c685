"""A journal of finished work: one JSON line per record, so that a killed experiment goes on where it stopped.

The first line says what the records belong to; a journal of something else is refused.  Each line is written and
flushed whole, with a digest of itself and of what it belongs to: a line cut short by a kill, or damaged, is dropped on
reading, and what it recorded is done again.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .files import clear_aside, reading, writing, written_aside
from .hashing import json_hash
from .identity import Identity
from .lock import locked

_DIGEST = "sha256"


class Journal:
    """Records of one experiment, in memory and, with a path, on disk.

    Args:
        path: the file (made with its folder where missing); None keeps the records in memory only.
        identity: what the records belong to.
    """

    def __init__(self, path: str | Path | None, identity: Identity) -> None:
        self.path = None if path is None else Path(path)
        self.records: list[dict[str, Any]] = []
        self._identity = identity

    @contextmanager
    def opened(self) -> Iterator[Journal]:
        """Read what is there, and keep other processes out for the length of the block.

        Raises:
            UsageError: the file belongs to another experiment, or is no journal, or another process writes to it.
            StorageError: it may not be read or written.
        """
        if self.path is None:
            yield self
            return
        with writing(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.with_name(f".{self.path.name}.lock"), f"the journal {str(self.path)!r}"):
            clear_aside(self.path)
            self._read()
            yield self

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep a finished record.

        Raises:
            StorageError: it could not be written; what was there is as it was.
        """
        self.records.append(dict(record))
        if self.path is None:
            return
        with writing(self.path), self.path.open("ab") as file:
            end = file.tell()
            try:
                file.write(self._line(record))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    os.truncate(self.path, end)  # half a line would spoil the one that comes behind it
                raise

    def _line(self, record: Mapping[str, Any]) -> bytes:
        """A record with its digest; a line of another experiment has another one."""
        plain = json.loads(json.dumps(record))
        return json.dumps({**plain, _DIGEST: json_hash([self._identity.key, plain])}).encode() + b"\n"

    def _head(self) -> bytes:
        fields = dict(self._identity.fields)
        return json.dumps({**fields, _DIGEST: json_hash(fields)}).encode() + b"\n"

    def _read(self) -> None:
        assert self.path is not None
        lines: list[bytes] = []
        if self.path.exists():
            with reading(self.path):
                lines = self.path.read_bytes().splitlines(keepends=True)
        if not lines:
            self._write_anew()
            return
        head, *found = (_parsed(line) for line in lines)
        fields = _without_digest(head or {})
        intact = head is not None and json_hash(fields) == head.get(_DIGEST)
        other = self._identity.difference(fields) if intact else ""
        if other and found:  # without a record it keeps nobody out
            raise UsageError(
                f"{str(self.path)!r} belongs to another {self._identity.work}: it differs in {other}; give another "
                "file, or remove it"
            )
        self.records = [record for line in found if (record := self._verified(line)) is not None]
        if not intact and not self.records:
            raise UsageError(
                f"{str(self.path)!r} is no journal of this {self._identity.work}; give another file, or remove it"
            )
        unended = not lines[-1].endswith(b"\n")
        cut = unended and bool(found) and self._verified(found[-1]) is None  # by a kill, which is no damage
        lost = len(found) - len(self.records) - cut
        if lost:
            warnings.warn(
                f"{lost} of the {len(found)} records in {str(self.path)!r} are damaged and are made again", stacklevel=2
            )
        if lost or unended or other or not intact:
            self._write_anew()

    def _verified(self, line: dict[str, Any] | None) -> dict[str, Any] | None:
        if line is None:
            return None
        record = _without_digest(line)
        return record if json_hash([self._identity.key, record]) == line.get(_DIGEST) else None

    def _write_anew(self) -> None:
        """Only the head, and the records that are whole."""
        assert self.path is not None
        with written_aside(self.path) as aside:
            aside.write_bytes(b"".join([self._head(), *map(self._line, self.records)]))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _without_digest(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != _DIGEST}
