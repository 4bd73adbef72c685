"""What finished work belongs to: named fields that decide its numbers, the versions of the libraries among them.

Whoever goes on with work that is there (a trace, an evaluation, a journal, a collection of second moments) compares the
identity it was begun with to its own, and says in which field they differ.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .files import reading, write_text
from .folder import OutFolder
from .hashing import json_hash
from .versions import versions

_LONGEST = 60
"""Characters of a value that a message shows in full."""


@dataclass(frozen=True)
class Identity:
    """Named fields, as JSON values.

    Args:
        work: what it is the identity of, in words: "run", "evaluation".
        fields: name -> value.
        words: name -> how it is called in a message, where that differs from the name.
    """

    work: str
    fields: Mapping[str, Any]
    words: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(work: str, fields: Mapping[str, Any], words: Mapping[str, str] | None = None) -> Identity:
        """These fields and the versions of the libraries.

        Raises:
            UsageError: a value that JSON cannot hold.
        """
        try:
            plain = json.loads(json.dumps({**fields, "versions": versions()}))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"what the {work} was set to cannot be written as JSON ({error}); give plain values"
            ) from error
        return Identity(work, plain, {"versions": "versions of the libraries", **(words or {})})

    @cached_property
    def key(self) -> str:
        """SHA-256 (hex): stands in every finished part."""
        return json_hash(self.fields)

    def difference(self, found: Mapping[str, Any]) -> str:
        """The names of the fields in which work of the fields `found` differs from this; empty where it does not."""
        names = [name for name in {**self.fields, **found} if found.get(name) != self.fields.get(name)]
        return ", ".join(
            self.words.get(name, name.replace("_", " ")) + _differ(found.get(name), self.fields.get(name))
            for name in names
        )

    def check(self, found: Mapping[str, Any], place: str | Path, remedy: str = "choose another place") -> None:
        """Refuse to go on with work of other fields.

        Args:
            found: the fields of the work that is there.
            place: where it is.
            remedy: what can be done, besides going on with that work.

        Raises:
            UsageError: it differs; the message says in what.
        """
        difference = self.difference(found)
        if difference:
            raise UsageError(
                f"{str(place)!r} holds another {self.work}: it differs in {difference}; {remedy}, or ask for the same "
                f"{self.work} again to continue it"
            )


def _differ(found: object, wanted: object) -> str:
    """What it was and what it should be, where that can be said in a few words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        return f" ({', '.join(name + _differ(found.get(name), wanted.get(name)) for name in names)})"
    values = [str(value) for value in (found, wanted)]
    if isinstance(found, (list, dict)) and max(map(len, values)) > _LONGEST:
        return ""
    return f" ({', not '.join(text[:12] if len(text) > _LONGEST else text for text in values)})"


class Manifest:
    """The file of a folder that says what the finished parts in it belong to.

    A manifest without a finished part keeps nobody out: a run that failed before it had any leaves the folder free.

    Args:
        folder: whose file it is; it must have claimed `name`.
        name: of the file.
        identity: of the work that is to be done there.
    """

    def __init__(self, folder: OutFolder, name: str, identity: Identity) -> None:
        self.path = folder / name
        self.identity = identity

    def open(self, kept: Callable[[], Iterable[str]], more: Any = None) -> Any:
        """Write the manifest, or go on with the work of the one that is there.

        Args:
            kept: gives of every finished part the key that it belongs to; asked only where the manifest is not ours.
            more: what is written beside the identity (JSON).

        Returns:
            what stands beside the identity: `more`, or what was written when the work was begun.

        Raises:
            UsageError: the folder holds other work.
        """
        content = self._read() if self.path.exists() else None
        if content is not None and not self.identity.difference(content["identity"]):
            return content["more"]
        if set(kept()) - {self.identity.key}:
            if content is not None:
                self.identity.check(content["identity"], self.path.parent)
            how = "damaged" if self.path.exists() else "missing"
            raise UsageError(
                f"{str(self.path)!r} is {how}, and the finished parts beside it are of another {self.identity.work}; "
                "choose another folder"
            )
        if content is None and self.path.exists():
            warnings.warn(f"{str(self.path)!r} was damaged and is written anew", stacklevel=2)
        content = {"identity": dict(self.identity.fields), "more": more}
        write_text(self.path, json.dumps({**content, "sha256": json_hash(content)}) + "\n")
        return json.loads(json.dumps(more))

    def _read(self) -> dict[str, Any] | None:
        """What was written; None where it is damaged."""
        with reading(self.path):
            raw = self.path.read_bytes()
        try:
            content: dict[str, Any] = json.loads(raw)
            digest = content.pop("sha256")
            return content if json_hash(content) == digest else None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
