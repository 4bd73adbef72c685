"""A batch in which every row carries an edit of its own, so that many single edits run in one forward.

with RowEdits(edits).on(model) as carried:
    carried.rows([0, 0, 1, 2])      # rows 0 and 1 carry the first edit, row 2 the second, row 3 the third
    logits = model.logits(ids)

Like an edit that is on, the change is put in by a forward hook of the matrix itself: row i with input k receives
Σ_r (k·u_r) v_r of its own edit.  No weight is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import MechinterpError, UsageError
from ...models.layout import entering
from ...models.model import Model
from .edit import Edit

UNEDITED = -1
"""A row that carries no edit."""


class RowEdits:
    """Edits to be carried by the rows of batches, each row one of them or none.

    A forward holds, for each row and each edited layer, both factors of its edit: rows x rank x (d_mlp + d_model)
    numbers.  That is little for edits of one fact, and much for edits of hundreds: give those to `edit.on(model)`.

    Args:
        edits: changes of weights, each made for the model as it stands, not on top of one another.

    Raises:
        UsageError: no edit, or one that is no change of weights.
    """

    def __init__(self, edits: Sequence[Edit]) -> None:
        if not edits:
            raise UsageError("there is no edit for any row to carry; give at least one")
        self.edits = tuple(edits)
        self._changes = tuple(edit.weights for edit in self.edits)
        self._places = tuple(dict.fromkeys(place for change in self._changes for place in change.factors))
        self._rows: Int[Tensor, " row"] | None = None

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that some edit changes."""
        return tuple(sorted({layer for _, layer in self._places}))

    def rows(self, carried: Sequence[int]) -> None:
        """From now on, row i of every forward carries the edit of this number (`UNEDITED`: none).

        Raises:
            UsageError: no row, or an edit of this number is not there.
        """
        wrong = [number for number in carried if not UNEDITED <= number < len(self.edits)]
        if wrong or not len(carried):
            which = f"there is no edit {wrong[0]}" if wrong else "there are no rows"
            raise UsageError(f"{which}: give each row one of the edits 0 to {len(self.edits) - 1}, or {UNEDITED}")
        self._rows = torch.tensor(carried, dtype=torch.long)

    def check(self, model: Model, *, force: bool = False) -> None:
        """Refuse a model that one of the edits was not made for (see `Edit.check`), with few looks at the weights."""
        weights_known: set[str] = set()
        for edit in self.edits:
            parts = [part.provenance for part in edit.parts]
            known = all(part.model in weights_known and not part.on_top_of for part in parts)
            edit.check(model, force=force or known)  # sizes, and whether it is on already, are looked at in any case
            weights_known |= {part.model for part in parts}

    @contextmanager
    def on(self, model: Model, *, force: bool = False) -> Iterator[RowEdits]:
        """Let the rows of every forward in this block carry their edits; say which with `rows`.

        Other threads that run the model wait until the block ends.

        Args:
            model: the model; edits that are on stay on under all rows.
            force: apply edits to other weights than they were made for.

        Raises:
            UsageError: see `Edit.check`.
            MechinterpError: (in a forward) the batch has another number of rows than was said, or nothing was.
        """
        self.check(model, force=force)
        with ExitStack() as stack:
            stack.enter_context(model.alone())
            stack.callback(self._forget)
            for place in self._places:
                projection = model.layout.mlp_projection(*place)
                stack.callback(projection.register_forward_hook(self._adder(model, place)).remove)
            yield self

    def _forget(self) -> None:
        self._rows = None

    def _adder(self, model: Model, place: tuple[str, int]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        u, v = self._sides(place)
        u, v = u.to(model.device), v.to(model.device)

        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            keys = entering(place[0], args[0])
            rows = self._checked_rows(keys).to(keys.device)
            dtype = torch.promote_types(keys.dtype, u.dtype)
            wide = keys.reshape(len(rows), -1, keys.shape[-1]).to(dtype)  # some models flatten rows and positions
            change = (wide @ u[rows].mT.to(dtype)) @ v[rows].to(dtype)
            return output + change.reshape(output.shape).to(output.dtype)

        return add

    def _checked_rows(self, keys: Float[Tensor, "*n d_in"]) -> Int[Tensor, " row"]:
        if self._rows is None:
            raise MechinterpError("nothing says which row carries which edit; call rows([...]) before the forward")
        found, said = keys.shape[0], len(self._rows)
        if found != said if keys.ndim == 3 else found % said:
            raise MechinterpError(f"a forward has {found} rows, but {said} were given their edits; call rows() anew")
        return self._rows

    def _sides(
        self, place: tuple[str, int]
    ) -> tuple[Float[Tensor, "edit rank d_in"], Float[Tensor, "edit rank d_out"]]:
        """The factors of all edits of one matrix, filled up with zeros to one rank; the last one is no edit."""
        found = [change.factors.get(place) for change in self._changes]
        present = [factors for factors in found if factors is not None]
        dtype = torch.float64 if any(factors.u.dtype == torch.float64 for factors in present) else torch.float32
        shape = (len(found) + 1, max(factors.rank for factors in present))
        u = torch.zeros(*shape, present[0].u.shape[1], dtype=dtype)
        v = torch.zeros(*shape, present[0].v.shape[1], dtype=dtype)
        for i, factors in enumerate(found):
            if factors is not None:
                u[i, : factors.rank], v[i, : factors.rank] = factors.u, factors.v
        return u, v
