"""What can go wrong, said in one sentence.

Every error raised on purpose is a `MechinterpError`; its text names the input at fault and what to do about it.  The
command line prints that sentence and leaves with the error's exit code: 2 for bad input (`UsageError`), 1 for work
that could not be done (`MechinterpError`).
"""

from typing import Any


class MechinterpError(Exception):
    """The work could not be done (exit code 1)."""

    exit_code = 1


class UsageError(MechinterpError, ValueError):
    """The input is wrong, and the message says how to put it right (exit code 2)."""

    exit_code = 2


class StorageError(MechinterpError):
    """The operating system would not read or write a file: no space, no permission, a folder that is gone."""


class DamagedError(MechinterpError):
    """A file does not hold what was written into it: bits have flipped, or its end is missing."""


class NotSavedError(MechinterpError):
    """A result could not be written where it was to go; nothing of it is lost.

    Args:
        message: why, and where it is now.
        result: what was to be written.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result
