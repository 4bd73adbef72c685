"""What a memory keeps: a text for each thing it knows, the key it is found by, and tensors that go with all of them.

On disk a folder: `entries.jsonl`, a line for each that a person can read, and `tensors.safetensors`, whose header holds
the digest of the lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import DamagedError, UsageError
from ...public import public
from ...runs.files import reading, write_text, writing
from ...runs.hashing import json_hash, tensor_hash
from ...runs.tensors import read_tensors, write_tensors

_KIND = "store"
_ENTRIES, _TENSORS = "entries.jsonl", "tensors.safetensors"
VECTORS = "vectors"


@dataclass(frozen=True)
class Entry:
    """One thing that is known.

    Args:
        key: what it is found by, in words.
        text: what is then said.

    Raises:
        UsageError: a text with `{}` in it, which stands for a prompt elsewhere.
    """

    key: str
    text: str

    def __post_init__(self) -> None:
        if "{}" in self.text:
            raise UsageError(f"the text {self.text!r:.60} of a store holds '{{}}', which stands for a prompt; leave it")


@dataclass(frozen=True, eq=False)
class Store:
    """Entries in the order in which they were written; one key has one entry.

    Args:
        entries: all of them.
        tensors: what goes with them, by name: "vectors" are the embeddings of the keys, a row for each.

    Raises:
        UsageError: a key twice, or vectors of another number.
    """

    entries: tuple[Entry, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.keys)) < len(self.keys):
            twice = next(key for i, key in enumerate(self.keys) if key in self.keys[:i])
            raise UsageError(f"the key {twice!r:.60} stands twice in a store; write it anew with store.with_entry(...)")
        if self.vectors is not None and len(self.vectors) != len(self.entries):
            raise UsageError(f"a store has {len(self.entries)} entries and {len(self.vectors)} vectors")

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def keys(self) -> tuple[str, ...]:
        """Of all entries."""
        return tuple(entry.key for entry in self.entries)

    @property
    def vectors(self) -> Float[Tensor, "entry width"] | None:
        """Embeddings of the keys, where there are any."""
        return self.tensors.get(VECTORS)

    def with_entry(self, key: str, text: str, vector: Float[Tensor, " width"] | None = None) -> Store:
        """The store with one more entry; one of its key is overwritten where it stands, its vector too."""
        entries, vectors = list(self.entries), self.vectors
        at = self.keys.index(key) if key in self.keys else len(entries)
        entries[at : at + 1] = [Entry(key, text)]
        if vector is not None:
            before = vector[None][:0] if vectors is None else vectors
            vectors = torch.cat([before[:at], vector[None].to(before), before[at + 1 :]])
        tensors = self.tensors if vectors is None else {**self.tensors, VECTORS: vectors}
        return Store(tuple(entries), tensors)

    def joined(self, later: Store) -> Store:
        """Both together; an entry of the later one overwrites one of its key."""
        found = self
        for i, entry in enumerate(later.entries):
            found = found.with_entry(entry.key, entry.text, None if later.vectors is None else later.vectors[i])
        return found

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over all it holds."""
        hashes = {name: tensor_hash(tensor) for name, tensor in self.tensors.items()}
        return json_hash({"entries": self.plain, "tensors": hashes})

    @property
    def plain(self) -> list[list[str]]:
        """The entries as JSON has them."""
        return [[entry.key, entry.text] for entry in self.entries]

    @staticmethod
    def of_plain(entries: Sequence[Sequence[str]], tensors: Mapping[str, Tensor] | None = None) -> Store:
        """What `plain` was taken of."""
        return Store(tuple(Entry(key, text) for key, text in entries), dict(tensors or {}))

    @public
    def save(self, folder: str | Path) -> None:
        """Write it into a folder.

        Raises:
            StorageError: it cannot be written.
        """
        place = Path(folder)
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"key": e.key, "text": e.text}, ensure_ascii=False) + "\n" for e in self.entries)
        write_text(place / _ENTRIES, lines)
        write_tensors(place / _TENSORS, _KIND, self.tensors, {"entries": json_hash(self.plain)})

    @staticmethod
    @public
    def load(folder: str | Path) -> Store:
        """Read a saved store.

        Raises:
            UsageError: no such folder, or one that holds no store.
            DamagedError: it does not hold what was written.
        """
        place = Path(folder)
        tensors, header = read_tensors(place / _TENSORS, _KIND)
        try:
            with reading(place / _ENTRIES):
                lines = (place / _ENTRIES).read_text(encoding="utf-8")
            read: list[Any] = [json.loads(line) for line in lines.splitlines()]
            plain = [[one["key"], one["text"]] for one in read]
        except (ValueError, KeyError, TypeError):
            plain = []
        if json_hash(plain) != header["entries"]:
            raise DamagedError(f"{str(place / _ENTRIES)!r} does not hold what was written; make the store anew")
        return Store.of_plain(plain, tensors)
