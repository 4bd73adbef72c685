"""Files that a command leaves in the folder given with --out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StorageError, UsageError


@contextmanager
def kept(sentence: str) -> Iterator[None]:
    """Add to what cannot be written what is kept all the same, and how to go on."""
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{error}; {sentence}") from error


def check_new(path: Path) -> None:
    """Refuse to write over a file of the user's.

    Raises:
        UsageError: it is there.
    """
    if path.exists():
        raise UsageError(f"{str(path)!r} is there already and is not overwritten; give another name, or remove it")
