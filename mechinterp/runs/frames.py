"""The one format of tables on disk: Parquet that any reader takes, with a digest of all its bytes in it.

A Parquet file is read from its end: the footer says where each column begins.  So a gap before the footer is nothing to
a reader, and there the digest stands: `mechinterp sha256 <64 digits>`, over all bytes before and after it.  Whichever
bit flips, in a value, in a page header or in the schema, it is noticed before anything is decoded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DamagedError, UsageError
from .files import reading, written_aside

_META = b"mechinterp"
_MAGIC = b"PAR1"
_SEAL = re.compile(rb"\nmechinterp sha256 ([0-9a-f]{64})\n")
_LENGTH = len(b"\nmechinterp sha256 \n") + 64
_END = 4 + len(_MAGIC)
"""The length of the footer, and the magic."""


def write_frame(path: str | Path, frame: pd.DataFrame, meta: Mapping[str, Any]) -> None:
    """Write a frame and what is to be known of it; a reader never sees a half-written file.

    Args:
        path: the file.
        frame: its columns; the index is not kept.
        meta: whatever JSON can hold.

    Raises:
        StorageError: it cannot be written.
    """
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), _META: json.dumps(meta).encode()})
    with written_aside(path) as aside:
        pq.write_table(arrow, aside, compression="zstd")
        _seal(aside)


def read_frame(path: str | Path, what: str = "table") -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read what `write_frame` wrote.

    Args:
        path: the file.
        what: it should be, for messages.

    Raises:
        UsageError: no such file, or one that was not written so.
        DamagedError: it does not hold what was written, or is cut short.
        StorageError: it may not be read.
    """
    _check(Path(path), what)
    with reading(path):
        arrow = pq.read_table(path)
    return arrow.to_pandas(), _meta(arrow.schema)


def read_frame_meta(path: str | Path, what: str = "table") -> dict[str, Any]:
    """Only what is to be known of a frame, once the whole file was looked at; raises as `read_frame`."""
    _check(Path(path), what)
    with reading(path):
        return _meta(pq.read_schema(path))


def _meta(schema: pa.Schema) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((schema.metadata or {}).get(_META, b"{}"))
    return found


def _seal(path: Path) -> None:
    """Put the digest before the footer."""
    start = _footer(path)
    with path.open("r+b") as file:
        file.seek(start)
        footer = file.read()
        digest = _digest(path, start, start)
        file.seek(start)
        file.write(b"\nmechinterp sha256 " + digest.encode() + b"\n" + footer)


def _check(path: Path, what: str) -> None:
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; give the name of a file in it")
    with reading(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
            file.seek(max(0, size - len(_MAGIC)))
            tail = file.read()
        if size < _END or _MAGIC not in (head, tail):
            raise DamagedError(f"{str(path)!r} is no readable Parquet file: it is damaged or cut short")
        start = _footer(path)
        with path.open("rb") as file:
            file.seek(max(0, start - _LENGTH))
            seal = _SEAL.fullmatch(file.read(_LENGTH)) if start >= _LENGTH else None
        if seal is None and head == tail == _MAGIC and start > 0:
            raise UsageError(
                f"{str(path)!r} is no {what} that was written here: it carries no digest of its data, so nothing says "
                "that it is whole (another program or an older version wrote it, or it is damaged)"
            )
        if seal is None or _digest(path, start - _LENGTH, start) != seal[1].decode():
            raise DamagedError(f"{str(path)!r} is damaged: it does not hold what was written")


def _footer(path: Path) -> int:
    """Where the footer begins, as the end of the file says; not above 0 in a damaged one."""
    with path.open("rb") as file:
        end = file.seek(0, 2) - _END
        file.seek(end)
        return end - int.from_bytes(file.read(4), "little")


def _digest(path: Path, until: int, since: int) -> str:
    """SHA-256 (hex) over the bytes before `until` and from `since` on."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = until
        while left and (chunk := file.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
        file.seek(since)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
