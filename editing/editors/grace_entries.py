"""The entries of a GRACE codebook, and what becomes of them when an edit is added (Hartvigsen et al. 2023, §3.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ...runs.hashing import tensor_hash
from ..edits.codebook import Codebook, distances

COVERAGE, MOVING = EXPANSIONS = ("coverage", "moving average")
"""What an entry does for a query with its own label: it reaches further, or it moves half-way as well."""
TOKENS, MEANS, NEWEST_FIRST = LABELS = ("tokens", "means", "means, newest first")
"""How labels are compared: their tokens; the means of their ids, the prompt's -100 with them (the authors' code, in
which different labels can be equal); or these means, read in the wrong order (EasyEdit: labels are put in front, keys
behind)."""

IGNORED = -100
"""The label of a token that is not predicted."""


@dataclass(frozen=True)
class Growth:
    """How entries make room for an edit.

    Args:
        radius: of a new entry, in the units of keys.
        expand: one of `EXPANSIONS`.
        labels: one of `LABELS`.
        gap: by how much less than half the distance the old one of two that are in conflict reaches.
        slack: share of its distance by which an entry reaches beyond a query that it takes in, so that rounding does
            not leave it out.
    """

    radius: float = 1.0
    expand: str = COVERAGE
    labels: str = TOKENS
    gap: float = 1e-5
    slack: float = 0.0


@dataclass(frozen=True, eq=False)
class Entries:
    """A codebook's entries with what each makes the model say: a value that a sequence of edits hands on.

    Args:
        keys: of each.
        radii: of each.
        values: of each.
        names: a number for each, which it keeps when its key moves.
        labels: of each: the edit's tokens, `IGNORED` for those of its prompt.
    """

    keys: Float64[Tensor, "entry d_in"]
    radii: Float64[Tensor, " entry"]
    values: Float[Tensor, "entry d_out"]
    names: tuple[int, ...] = ()
    labels: tuple[tuple[int, ...], ...] = ()

    @staticmethod
    def none(d_in: int, values: Float[Tensor, "_some d_out"]) -> Entries:
        """No entries, of these widths and this precision."""
        return Entries(torch.zeros(0, d_in).double(), torch.zeros(0).double(), values[:0])

    def __len__(self) -> int:
        return len(self.names)

    def nearest(self, query: Float64[Tensor, " d_in"]) -> tuple[float, int]:
        """Distance and number of the entry next to a query."""
        found, number = distances(query[None], self.keys)[0].min(0)
        return float(found), int(number)

    def grown(
        self, query: Float64[Tensor, " d_in"], label: Sequence[int], value: Float[Tensor, " d_out"], growth: Growth
    ) -> tuple[Entries, int]:
        """The entries with room for an edit, and the one whose value is to be trained for it.

        Args:
            query: of the edit.
            label: what it should make the model say.
            value: of a new entry.
            growth: by which rule.
        """
        if not len(self):
            return self._joined(query, growth.radius, value, label), 0
        apart, near = self.nearest(query)
        if apart > growth.radius + float(self.radii[near]):
            grown = self._joined(query, growth.radius, value, label)
        elif not self._agree(near, label, growth.labels):
            radii = self.radii.clone()
            radii[near] = apart / 2 - growth.gap
            grown = replace(self, radii=radii)._joined(query, apart / 2, value, label)
        else:
            grown = self._expanded(near, query, apart, growth)
        return grown, grown.nearest(query)[1]

    def _expanded(self, near: int, query: Float64[Tensor, " d_in"], apart: float, growth: Growth) -> Entries:
        reach = apart * (1 + growth.slack)
        if reach <= float(self.radii[near]):
            return self
        keys, radii = self.keys.clone(), self.radii.clone()
        radii[near] = reach
        if growth.expand == MOVING:
            keys[near] += (query - keys[near]) / 2
        return replace(self, keys=keys, radii=radii)

    def _joined(
        self, key: Float64[Tensor, " d_in"], radius: float, value: Float[Tensor, " d_out"], label: Sequence[int]
    ) -> Entries:
        digest = hashlib.sha256(f"{tensor_hash(key)} {list(label)} {len(self)}".encode()).digest()
        return Entries(
            torch.cat([self.keys, key[None]]),
            torch.cat([self.radii, torch.tensor([radius], dtype=torch.float64)]),
            torch.cat([self.values, value[None].to(self.values)]),
            (*self.names, int.from_bytes(digest[:7], "big")),
            (*self.labels, tuple(label)),
        )

    def _agree(self, near: int, label: Sequence[int], how: str) -> bool:
        if how == TOKENS:
            here, new = ([token for token in one if token != IGNORED] for one in (self.labels[near], label))
            return here == new
        read = self.labels[len(self) - 1 - near if how == NEWEST_FIRST else near]
        return bool(torch.tensor(read).float().mean() == torch.tensor(list(label)).float().mean())

    def valued(self, number: int, value: Float[Tensor, " d_out"]) -> Entries:
        """The same with another value of one entry."""
        values = self.values.clone()
        values[number] = value
        return replace(self, values=values)

    def since(self, before: Entries) -> list[int]:
        """Numbers of those that were not there before, or are others now."""
        old = dict(zip(before.names, range(len(before)), strict=True))
        return [
            i
            for i, name in enumerate(self.names)
            if name not in old
            or not torch.equal(self.keys[i], before.keys[old[name]])
            or not torch.equal(self.values[i], before.values[old[name]])
            or self.radii[i] != before.radii[old[name]]
        ]

    def book(self, some: Sequence[int], layer: int, matrix: str, replaces: str) -> Codebook:
        """Some of them as a change of a model."""
        chosen, labels = list(some), _padded([self.labels[i] for i in some])
        names = torch.tensor([self.names[i] for i in chosen], dtype=torch.long)
        keys, radii, values = self.keys[chosen], self.radii[chosen], self.values[chosen]
        return Codebook(layer, matrix, keys, radii, values, replaces, names, labels)

    def with_book(self, book: Codebook) -> Entries:
        """These and those of a codebook, which stand in the place of earlier ones of their name."""
        assert book.names is not None
        assert book.labels is not None
        found = self
        for i, name in enumerate(book.names.tolist()):
            if name in found.names:
                at = found.names.index(name)
                keys, radii = found.keys.clone(), found.radii.clone()
                keys[at], radii[at] = book.keys[i], book.radii[i]
                found = replace(found, keys=keys, radii=radii).valued(at, book.values[i])
            else:
                label = tuple(token for token in book.labels[i].tolist() if token != _PADDING)
                joined = found._joined(book.keys[i], float(book.radii[i]), book.values[i], label)
                found = replace(joined, names=(*found.names, name))
        return found

    def state(self) -> dict[str, Tensor]:
        """What a file keeps of it."""
        names = torch.tensor(self.names, dtype=torch.long)
        tensors = {"keys": self.keys, "radii": self.radii, "values": self.values}
        return tensors | {"names": names, "labels": _padded(self.labels)}

    @staticmethod
    def of_state(state: Mapping[str, Tensor]) -> Entries:
        """What `state` was taken of."""
        none = Entries.none(state["keys"].shape[1], state["values"])
        names, labels = state["names"], state["labels"]
        return none.with_book(Codebook(0, "up", state["keys"], state["radii"], state["values"], "query", names, labels))


_PADDING = -1


def _padded(labels: Sequence[Sequence[int]]) -> Int[Tensor, "entry token"]:
    width = max(map(len, labels), default=0)
    return torch.tensor([[*label, *[_PADDING] * (width - len(label))] for label in labels], dtype=torch.long).view(
        len(labels), width
    )
