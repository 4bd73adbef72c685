"""Tables: CSV and TSV with a header, and parquet; each row is a record."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ..errors import UsageError
from ..facts.records import Record, RecordFile
from ..facts.user_files import read_text

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def is_table(path: str | Path) -> bool:
    """Whether the file's name says that it is a table."""
    return Path(path).suffix.lower() in (*SEPARATORS, ".parquet")


def read_table(path: str | Path) -> RecordFile:
    """All rows of a table; an empty cell is a field that is not there.

    Raises:
        UsageError: no such file, no UTF-8, no header, no row, or no parquet.
    """
    if Path(path).suffix.lower() == ".parquet":
        return _parquet(path)
    text = read_text(path, "the file of facts", "give the path of a CSV file with a header")
    separator = SEPARATORS[Path(path).suffix.lower()]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    entries: list[Record | str] = []
    try:
        header = [name.strip() for name in next(rows, [])]
        if not any(header) or len(set(header)) < len(header):
            raise UsageError(
                f"{str(path)!r} has no header of different names in its first line; write one such as "
                f"{separator.join(('template', 'subject', 'answer', 'target_new'))}"
            )
        for number, row in enumerate(rows, start=1):
            where = f"row {number} (line {rows.line_num}) of {str(path)!r}"
            if len(row) == len(header):
                cells = zip(header, row, strict=True)
                entries.append(Record(where, {name: cell for name, cell in cells if name and cell != ""}, number))
            elif row:
                entries.append(f"{where} has {len(row)} cells, and the header {len(header)}; mend it")
    except csv.Error as error:
        raise UsageError(
            f"{str(path)!r} is cut short or no CSV after line {rows.line_num} ({error}); mend it there"
        ) from error
    return _filled(path, entries)


def _parquet(path: str | Path) -> RecordFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        read_text(path, "the file of facts", "give the path of a parquet file")
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{str(path)!r} is cut short or no parquet ({error}); copy the file again") from error
    return _filled(path, [Record(f"row {i} of {str(path)!r}", row, i) for i, row in enumerate(rows, start=1)])


def _filled(path: str | Path, entries: list[Record | str]) -> RecordFile:
    if not entries:
        raise UsageError(f"{str(path)!r} holds no row; give a file of facts")
    return RecordFile(str(path), tuple(entries))
