"""One process at a time: a lock file that says whose it is, and that a killed owner does not leave locked.

Where the system has `flock` it decides: its locks end with their process, however that ends, and reach over the network
where the file system does.  Elsewhere the owner's number in the file does, on the machine that wrote it.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .files import writing

if sys.platform != "win32":
    import fcntl

_UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What a file system says that has no such locks."""

_SETTLE = 0.2
"""Seconds after which, without `flock`, the last of several that wrote at once is the owner."""


@contextmanager
def locked(file: Path, what: str) -> Iterator[None]:
    """Hold a lock for the length of the block.

    Args:
        file: the lock file, in a folder that is there; it is gone afterwards.
        what: is locked, for the message.

    Raises:
        UsageError: another process holds it; the message names that one.
        StorageError: the file cannot be written.
    """
    with writing(file):
        descriptor = _acquired(file, what)
    try:
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)  # it is nobody's, even where an open file cannot be removed
            file.unlink()  # before it is let go: whoever opened it meanwhile sees that it is no longer there
        os.close(descriptor)


def _acquired(file: Path, what: str) -> int:
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free = _flock(descriptor)
            owner = _owner(descriptor)
            if free is False or (free is None and owner and _alive(owner)):
                raise UsageError(f"{what} is in use by {_words(owner)}; {_remedy(file, certain=free is False)}")
            if not _is_there(file, descriptor):
                os.close(descriptor)
                continue
            mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, json.dumps(mine).encode())
            if free is None:
                time.sleep(_SETTLE)
                if _owner(descriptor) != mine:
                    raise UsageError(f"{what} was taken by {_words(_owner(descriptor))} at the same moment")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _flock(descriptor: int) -> bool | None:
    """Whether it is ours; None where the file system does not know such locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNKNOWN:
            return None
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _owner(descriptor: int) -> dict[str, Any]:
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        found = json.loads(os.read(descriptor, 1000))
    except ValueError:  # not written yet
        return {}
    return found if isinstance(found, dict) else {}


def _alive(owner: dict[str, Any]) -> bool:
    """Whether the process is running; of another machine nothing is known, so it counts as running."""
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(owner["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError, TypeError):
        return False
    except OSError:
        return True
    return True


def _is_there(file: Path, descriptor: int) -> bool:
    """Whether the file that was opened is still the one under this name."""
    try:
        there, opened = file.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)


def _words(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} (since {owner.get('since')})"


def _remedy(file: Path, *, certain: bool) -> str:
    wait = "wait until that has ended, or give another place"
    return wait if certain else f"{wait}; if it has ended, delete {str(file)!r}"
