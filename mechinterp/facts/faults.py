"""All bad records of a file in one message; or left out, when the user says so, and counted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError

NAMED = 10
"""Bad records that are named; the others are counted."""

SKIP = "out with skip_bad=True (--skip-bad)"


def refuse(faults: Sequence[str], total: int, path: str | Path, what: str = "records", *, skip_bad: bool) -> None:
    """Raise for the bad records of a file, or say how many are left out.

    Args:
        faults: a sentence for each, which begins with its place.
        total: how many records there are.
        path: the file.
        what: they are.
        skip_bad: go on without them, with a warning; there must be others.

    Raises:
        UsageError: there are some, and they are not to be skipped or are all there is.
    """
    if not faults:
        return
    said = _listed(faults, total, path, what)
    if skip_bad and len(faults) < total:
        warnings.warn(f"left out: {said}", stacklevel=3)
        return
    if len(faults) == 1 < total:
        raise UsageError(f"{faults[0]}; or leave it {SKIP}")
    raise UsageError(faults[0] if total == 1 else said if skip_bad else f"{said}\nMend them, or leave them {SKIP}.")


def _listed(faults: Sequence[str], total: int, path: str | Path, what: str) -> str:
    """How many, and the first of them, each on its own line and without the file's name."""
    lines = [fault.replace(f" of {str(path)!r}", "") for fault in faults[:NAMED]]
    more = [f"and {len(faults) - NAMED} more"] if len(faults) > NAMED else []
    return "\n  ".join([f"{len(faults)} of {total} {what} of {str(path)!r} cannot be used:", *lines, *more])
