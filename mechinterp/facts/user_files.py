"""Opening a file that the user named: what can be wrong with that is said here, for facts, texts and references."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from ..errors import UsageError


def opened(path: str | Path, what: str, hint: str) -> BinaryIO:
    """A file, to be read as bytes.

    Args:
        path: as the user gave it.
        what: it is to be, "the file of facts" say.
        hint: what to give instead.

    Raises:
        UsageError: it is not there, a folder, or may not be read; each by its own name.
    """
    called = f"{what} {str(path)!r}"
    try:
        return Path(path).open("rb")
    except IsADirectoryError as error:
        raise UsageError(f"{called} is a folder; {hint}") from error
    except PermissionError as error:
        raise UsageError(f"{called} may not be read: permission denied; change its permissions, or {hint}") from error
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a null byte in its name
        raise UsageError(f"{called} does not exist; {hint}") from error
    except OSError as error:
        raise UsageError(f"{called} cannot be read ({error.strerror}); {hint}") from error


def read_text(path: str | Path, what: str, hint: str) -> str:
    """The text of a file in UTF-8, without the byte-order mark that some editors put in front.

    Raises:
        UsageError: as `opened`; other bytes than UTF-8 (the first is named); the disk fails while it is read.
    """
    with opened(path, what, hint) as file:
        try:
            return file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(f"{str(path)!r} is not UTF-8 text (byte {error.start}); convert it first") from error
        except OSError as error:
            raise UsageError(f"{what} {str(path)!r} cannot be read ({error.strerror}); {hint}") from error
