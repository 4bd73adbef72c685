"""A codebook: outputs of one matrix that are replaced where a prompt's query is near a key (Hartvigsen et al. 2023).

It answers whole prompts: what it decides depends on a prompt's own tokens alone, not on what is fed after it, on
padding or on other rows, and is kept while text goes on (`models.asking`).

Codebooks that are on at one matrix act as one: the nearest of all their keys answers, so that no edit shadows another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import UsageError
from ...models.asking import deciding
from ...models.model import Model
from .change import ACTIVATIONS, Change, check_width
from .where import Rows, Where

QUERY, BEFORE, ALL = REPLACED = ("query", "before", "all")
"""What a codebook replaces: the output at the prompt's last token, at those before it, or at all."""


@dataclass(frozen=True, eq=False)
class Codebook(Change):
    """Outputs of one matrix that are replaced where a prompt's query is near a key.

    The query is what enters the matrix at the prompt's last token; the nearest key (Euclidean) answers if the query
    lies within its radius.

    Args:
        layer: which.
        matrix: "up" or "down": whose inputs are keys and whose outputs are replaced.
        keys: of each entry.
        radii: how far each reaches.
        values: what it puts in place of the output.
        replaces: where: one of `REPLACED`.
        names: a number for each entry: of several codebooks that are on, the later one's entry of a name stands in
            place of the earlier one's.  None: all entries are their own.
        labels: the tokens that each entry makes the model say, padded with -1; None where that is not known.
    """

    kind = "codebook"
    acts_on = ACTIVATIONS

    layer: int
    matrix: str
    keys: Float[Tensor, "_entry d_in"]
    radii: Float[Tensor, " _entry"]
    values: Float[Tensor, "_entry d_out"]
    replaces: str = QUERY
    names: Int[Tensor, " _entry"] | None = None
    labels: Int[Tensor, "_entry _token"] | None = None

    def __post_init__(self) -> None:
        if self.replaces not in REPLACED:
            raise UsageError(f"replaces={self.replaces!r} is nothing a codebook can replace; choose {REPLACED}")

    @property
    def tensors(self) -> dict[str, Tensor]:
        found = {"keys": self.keys, "radii": self.radii, "values": self.values}
        more = {"names": self.names, "labels": self.labels}
        return found | {name: tensor for name, tensor in more.items() if tensor is not None}

    @property
    def header(self) -> dict[str, Any]:
        return {"layer": self.layer, "matrix": self.matrix, "replaces": self.replaces}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        keys, radii, values = (tensors[name] for name in ("keys", "radii", "values"))
        place = header["layer"], header["matrix"]
        return cls(*place, keys, radii, values, header["replaces"], tensors.get("names"), tensors.get("labels"))

    @property
    def layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def check(self, model: Model, made_for: str = "") -> None:
        width = model.layout.mlp_matrix(self.matrix, self.layer).shape[0]
        check_width("codebook", self.keys.shape[1], int(width), made_for)

    @contextmanager
    def on(self, model: Model, where: Where | None = None) -> Iterator[Model]:
        projection = model.layout.mlp_projection(self.matrix, self.layer)
        shared = where is None  # those that answer some rows only stand for themselves
        shelf = (_shelves.get(projection) if shared else None) or _Shelf(model, self, where)
        if shared:
            _shelves[projection] = shelf
        with deciding(model):
            shelf.put(self)
            try:
                yield model
            finally:
                shelf.take(self)
                if shared and shelf.is_empty:
                    del _shelves[projection]


class _Shelf:
    """The codebooks that are on at one matrix, as the one that they make together."""

    def __init__(self, model: Model, first: Codebook, where: Where | None) -> None:
        self._books: list[Codebook] = []
        self._projection: nn.Module = model.layout.mlp_projection(first.matrix, first.layer)
        self._stack = ExitStack()
        self._rows = Rows(model, first.layer, where, self._stack)
        self._stack.callback(self._projection.register_forward_hook(self._replace).remove)

    @property
    def is_empty(self) -> bool:
        return not self._books

    def put(self, book: Codebook) -> None:
        self._books.append(book)
        self._join()

    def take(self, book: Codebook) -> None:
        self._books = [one for one in self._books if one is not book]
        if self.is_empty:
            self._stack.close()
        else:
            self._join()

    def _join(self) -> None:
        """Lay the entries of all side by side, an entry in the place of an earlier one of its name."""
        at: dict[Any, tuple[int, int]] = {}
        for number, book in enumerate(self._books):
            for entry in range(len(book.keys)):
                name = (number, entry) if book.names is None else int(book.names[entry])
                at[name] = number, entry
        kept = [[entry for owner, entry in at.values() if owner == number] for number in range(len(self._books))]
        pairs = list(zip(self._books, kept, strict=True))
        first = self._books[0]
        self._keys = torch.cat([book.keys[some].double() for book, some in pairs])
        self._radii = torch.cat([book.radii[some].double() for book, some in pairs])
        self._values = torch.cat([book.values[some].to(first.values) for book, some in pairs])
        self._places = torch.tensor([REPLACED.index(book.replaces) for book, some in pairs for _ in some])

    def _replace(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not len(self._keys):
            return output
        rows = self._rows
        entering, leaving = rows.apart(args[0]), rows.apart(output)
        entry, ends = rows.decided(lambda ends: self._entries(entering, ends))
        position = torch.arange(leaving.shape[1], device=leaving.device)
        end = (torch.full_like(entry, -1) if ends is None else ends.to(leaving.device))[:, None]
        where = self._places.to(entry.device)[entry.clamp(min=0)][:, None]
        reached = torch.stack([position == end, position < end, (position >= 0).expand(len(entry), -1)])
        reached = reached.gather(0, where.expand(-1, len(position))[None])[0]
        hit = rows.among_meant((entry >= 0)[:, None] & reached)
        if not bool(hit.any()):
            return output
        values = self._values.to(leaving)[entry.clamp(min=0)][:, None]
        return torch.where(hit[..., None], values, leaving).reshape(output.shape)

    def _entries(self, entering: Float[Tensor, "row pos d_in"], ends: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """The entry that answers each row's query, -1 where none does."""
        where = ends.to(entering.device)
        query = entering[torch.arange(len(where), device=where.device), where].double()
        apart, nearest = distances(query, self._keys.to(query)).min(1)
        return torch.where(apart <= self._radii.to(query)[nearest], nearest, -1)


def distances(queries: Float[Tensor, "query width"], keys: Float[Tensor, "key width"]) -> Float[Tensor, "query key"]:
    """Euclidean distances, from the differences themselves: a query equal to a key is at 0, and not at 1e-7."""
    return torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")


_shelves: WeakKeyDictionary[nn.Module, _Shelf] = WeakKeyDictionary()
"""A matrix -> the codebooks that are on there."""
