"""A folder that results go to.  What was written here may be replaced here; everything else in it is the user's.

The names that were written are lines of a hidden file of the folder, so that a second start knows its own files from
those of the same name that somebody put there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StorageError, UsageError
from .files import check_name, reading, writing
from .lock import locked

_OWN = ".mechinterp-files"
_LOCK = ".mechinterp-lock"
_FIRST = "# What mechinterp wrote into this folder and may replace:"


class OutFolder:
    """The folder of one job's results.

    Args:
        path: the folder; it need not be there.

    Raises:
        UsageError: an empty name.
    """

    def __init__(self, path: str | Path) -> None:
        if not str(path):
            raise UsageError("the folder for the results has no name; give one ('.' is the folder you are in)")
        check_name(path)
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __str__(self) -> str:
        return str(self.path)

    def check(self, *names: str) -> None:
        """Look whether results of these names can go here, before the work that makes them; nothing is written.

        Raises:
            UsageError: a file stands where the folder should be, or something of the user's has one of the names.
            StorageError: the folder may not be written.
        """
        there = self.path
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
        if not os.path.isdir(there):
            raise UsageError(f"{str(there)!r} is a file; give the name of a folder for the results")
        if not os.access(there, os.W_OK | os.X_OK):
            raise StorageError(f"the folder {str(there)!r} may not be written; give another one for the results")
        own = self._own()
        for name in names:
            if name not in own and os.path.lexists(self.path / name):
                raise UsageError(
                    f"{str(self.path / name)!r} is there already and was not written there by this command; it is not "
                    "overwritten: choose another folder, or move it"
                )

    def claim(self, *names: str) -> None:
        """Make the folder, and note that what has these names from now on is ours; raises as `check`."""
        self.check(*names)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        new = sorted(set(names) - self._own())
        if new:
            note = self.path / _OWN
            with writing(note), note.open("a", encoding="utf-8") as file:
                file.write("\n".join([_FIRST, *new] if file.tell() == 0 else new) + "\n")
                file.flush()
                os.fsync(file.fileno())  # before anything of these names is there: else a power cut makes it the user's

    def owns(self, name: str) -> bool:
        """Whether what has this name is ours."""
        return name in self._own()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out for the length of the block; the folder is made.

        Raises:
            UsageError: another one is at work here.
            StorageError: the folder may not be written.
        """
        self.claim()
        with locked(self.path / _LOCK, f"the folder {str(self.path)!r}"):
            yield

    def _own(self) -> set[str]:
        note = self.path / _OWN
        if not os.path.isfile(note):
            return set()
        with reading(note):
            return set(note.read_text(encoding="utf-8", errors="replace").splitlines())
