"""Files that are never half there: written aside, then renamed.  What the system says of them becomes a sentence."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import MechinterpError, NotSavedError, StorageError, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM)
_ASIDE = re.compile(r"\.(.+)\.\d+\.part")


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an exception.

    Raises:
        UsageError: `path` is a folder, or empty.
        StorageError: it cannot be written; what was there before is there still.
    """
    target = Path(path)
    with writing(path):
        if not target.name or target.is_dir():
            raise UsageError(f"{str(path)!r} is a folder; give the name of a file in it")
        if target.is_symlink():  # what it points to takes the new content, and it stays
            target = target.resolve()
        if target.exists() and not target.is_file():
            raise UsageError(f"{str(path)!r} is a device or a pipe, which no file can replace; give another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{threading.get_native_id()}.part")
        try:
            yield aside
            _settle(aside)
            aside.chmod(0o666 & ~_umask())  # some writers (safetensors) make files that only their owner may read
            os.replace(aside, target)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def check_name(path: str | Path) -> None:
    """Refuse what no file can be called.

    Raises:
        UsageError: half a character, or a null byte, stands in it.
    """
    try:
        nameless = b"\0" in os.fsencode(path)
    except UnicodeEncodeError:
        nameless = True
    if nameless:
        raise UsageError(f"no file can be called {str(path)!r}; give another name")


def clear_aside(*paths: Path) -> None:
    """Remove what killed processes left of `written_aside` of these paths, and nothing else."""
    names = defaultdict(set)
    for path in paths:
        names[path.parent].add(path.name)
    for folder, ours in names.items():
        with suppress(OSError):
            for entry in list(folder.iterdir()):
                left = _ASIDE.fullmatch(entry.name)
                if left and left[1] in ours:
                    entry.unlink(missing_ok=True)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Within the block an error of the operating system about this file is a `StorageError` that says what to do."""
    check_name(path)
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """The same for a file that is read; one that is not there is a `UsageError`."""
    check_name(path)
    try:
        yield
    except OSError as error:
        raise storage_error(error, path, "read") from error


def storage_error(error: OSError, path: str | Path, what: str = "written") -> MechinterpError:
    """What the operating system says of a file, as a sentence that names it and what can be done.

    Args:
        error: of the operating system.
        path: the file.
        what: was to be done with it: "written", "read", "used".
    """
    name, folder = repr(str(path)), repr(str(Path(path).parent))
    if error.errno in _DENIED:
        return StorageError(f"{name} may not be {what}: permission denied; ask for the right to, or change its mode")
    if error.errno in _FULL:
        return StorageError(f"{name} could not be written: there is no space left on its disk; free some")
    if error.errno == errno.EROFS:
        return StorageError(f"{name} could not be written: its file system is read-only; choose another place")
    if error.errno == errno.EFBIG:
        return StorageError(
            f"{name} could not be written: it is larger than a file may be here (a limit of the disk, or `ulimit -f`)"
        )
    if error.errno == errno.ENOENT and what != "written":
        return UsageError(f"there is no file {name}; check the path")
    if error.errno == errno.ENOENT:
        return StorageError(f"{name} could not be written: the folder {folder} is gone")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return UsageError(f"{name} cannot be there: a part of its path is a file and no folder; give another path")
    if error.errno == errno.EISDIR:
        return UsageError(f"{name} is a folder; give the name of a file in it")
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(f"the name {name[:60]}... is too long for a file; give a shorter one")
    return StorageError(f"{name} could not be {what}: {error.strerror or error}")


def save_somewhere(path: str | Path, save: Callable[[Path], None], result: object) -> None:
    """Save a result that took long to make; where its place fails, with the system's temporary files.

    Raises:
        NotSavedError: it is not where it was to go, but there, or only in memory; it is the error's `result`.
    """
    target = Path(path)
    try:
        save(target)
    except MechinterpError as error:
        second = _saved_beside_temporary_files(target.name, save)
        where = "still in memory (`result` of this error)"
        if second is not None:
            where = f"kept in {str(second)!r} instead: move it from there"
        raise NotSavedError(f"{error}; it is {where}", result) from error


def _saved_beside_temporary_files(name: str, save: Callable[[Path], None]) -> Path | None:
    """Where it is now; None where that cannot be written either."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="mechinterp-"))
    except OSError:
        return None
    try:
        save(folder / name)
    except MechinterpError:
        with suppress(OSError):
            folder.rmdir()
        return None
    return folder / name


def _settle(path: Path) -> None:
    """Have it on the disk before it takes the place of what is there: else a power cut leaves an empty file."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    """What new files may not allow; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
