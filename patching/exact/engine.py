"""The exact engine: one forward per token gives a whole column of the grid, all layers and all draws.

In a causal decoder a patch at (token t, layer l) changes only tokens from t on and layers from l on.  So a column runs
over the tokens from t on, with the keys and values of the corrupted run in front (`prefix`), and its batch grows: at
the input of each block the rows of the cells that start there join, with the corrupted residual stream and the restored
value in it.  In the last layer only the scored tokens matter (`ends`).  Everything goes through public hook points, so
every decoder that allows it is served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache

from ...errors import MechinterpError
from ...forwards import unembedding
from ...forwards.unembedding import Logits
from ...models.door import Hook
from ...models.layout import MLP, RESID, RESID_PRE, K, V
from ..algebra.programs import Program
from ..plain.jobs import Pair
from ..plain.session import Session
from .column_jobs import ColumnJob
from .column_writes import ColumnWrites, RowWrites
from .columns import AFTER, WITHIN, ColumnCell
from .ends import Ends, KeysReady, LastLayer
from .prefix import PrefixLayer


@dataclass(frozen=True, eq=False)
class ColumnResult:
    """Logits of one cell of one prompt, [draws, kept, vocab], or what they are made of."""

    prompt: int
    cell: ColumnCell
    logits: Logits


@dataclass(eq=False)
class Engine:
    """Columns for the prompts of one session and the programs of one corruption.

    Args:
        session: prompts alike in length, whose runs have been done with what `columns.reads_of` says.
        corruption: what the programs share.
        most_waiting: rows that may wait for the last layer.
    """

    session: Session
    corruption: Program
    most_waiting: int

    def __post_init__(self) -> None:
        asked = self.session.asked[0]
        pairs = self.session.pairs(self.corruption)
        self._ends: Ends[tuple[ColumnJob, ColumnCell, int]] = Ends(
            self.session.model, pairs, self.session.ids, len(asked.answer)
        )

    def run(self, job: ColumnJob) -> Iterator[ColumnResult]:
        """One forward; gives the cells that are finished, of this job or of earlier ones."""
        column = _Column(self, job)
        owners = [(job, cell, prompt) for cell in job.cells for prompt in job.prompts]
        self.session.work.token_layers += job.token_layers(self.session.model.n_layers)
        if not job.stops_early(self.session.model.n_layers):
            yield from _results(owners, column.run())
            return
        if self._ends.owners and self._ends.rows + len(owners) * job.draws > self.most_waiting:
            yield from self.finish()
        self._ends.add(owners, *column.run_to_last_layer())

    def finish(self) -> Iterator[ColumnResult]:
        """The cells that still wait for their last layer."""
        if self._ends.owners:
            yield from _results(*self._ends.run())


def _results(owners: list[tuple[ColumnJob, ColumnCell, int]], logits: Logits) -> Iterator[ColumnResult]:
    start = 0
    for job, cell, prompt in owners:
        yield ColumnResult(prompt, cell, logits[start : start + job.draws])
        start += job.draws


class _Column:
    """One growing forward."""

    def __init__(self, engine: Engine, job: ColumnJob) -> None:
        self.engine, self.job, self.position = engine, job, job.position
        self.session = engine.session
        self.model = engine.session.model
        self.writes = ColumnWrites(engine.session, engine.corruption, job)
        self.present = 0
        self.fired: list[str] = []

    def run(self) -> Logits:
        """Through all layers: logits [row, kept, vocab], or what they are made of."""
        n_layers = self.model.n_layers
        hooks = self._hooks(n_layers)
        rows = self.job.rows(n_layers)
        if rows > self.job.rows(n_layers - 1):
            hooks.append((self.model.layout.hook(RESID, n_layers - 1), self._join(n_layers)))
        logits = self._forward(hooks, self._prefix())
        self._check(len(hooks), logits.shape[0] == rows)
        return logits

    def run_to_last_layer(self) -> tuple[Float[Tensor, "row pos d_model"], Pair]:
        """The residual stream entering the last layer, and that layer's keys and values of all tokens."""
        last = self.model.n_layers - 1
        hooks = self._hooks(last)
        arrived: list[Tensor] = []
        join = self._join(last)

        def arrive(value: Tensor, hook: object) -> Tensor | None:
            joined = join(value, hook)
            arrived.append(value if joined is None else joined)
            return joined

        hooks.append((self.model.layout.hook(RESID_PRE, last), arrive))
        hooks += self._write_hooks((K, V), last)
        cache = self._prefix(last_layer=LastLayer)
        layer: Any = cache.layers[last]
        with suppress(KeysReady):
            self._forward(hooks, cache)
        self._check(len(hooks), len(arrived) == 1 and hasattr(layer, "found"))
        return arrived[0], layer.found

    def _hooks(self, layers: int) -> list[Hook]:
        """Joins and writes of the first layers."""
        hooks: list[Hook] = []
        for layer in range(layers):
            hooks.append((self.model.layout.hook(RESID_PRE, layer), self._join(layer)))
            hooks += self._write_hooks((*WITHIN, *AFTER), layer)
        return hooks

    def _write_hooks(self, components: Sequence[str], layer: int) -> list[Hook]:
        """What is written while a layer runs, to the rows that have joined by then."""
        found: list[Hook] = []
        for name in components:
            chosen = self.writes.at(name, layer)
            if chosen:
                found.append((self.model.layout.hook(name, layer), self._write(chosen)))
        return found

    def _prefix(self, last_layer: type[PrefixLayer] = PrefixLayer) -> Cache:
        """Keys and values of the corrupted run, for the rows that are in the batch at each time."""
        pairs = self.session.pairs(self.engine.corruption)
        kinds = [PrefixLayer] * (len(pairs) - 1) + [last_layer]
        return Cache(
            layers=[
                kind(keys, values, self.position, self._samples)
                for kind, (keys, values) in zip(kinds, pairs, strict=True)
            ]
        )

    def _forward(self, hooks: list[Hook], cache: Cache) -> Logits:
        model = self.model
        # A placeholder of one row: masks and rotary tables keep batch 1 and broadcast over the rows that join later.
        placeholder = torch.zeros(1, self.job.width, model.d_model, dtype=model.dtype, device=model.device)
        return unembedding.run(
            model, placeholder, hooks, stands_for=self.session.ids, logits_to_keep=self.job.keep, past_key_values=cache
        )

    def _check(self, hooks: int, sound: bool) -> None:
        if len(self.fired) != hooks or not sound:
            raise MechinterpError(
                f"{self.model.name}: {len(self.fired)} of {hooks} hooks of a column fired; use engine='plain'"
            )

    def _samples(self) -> Tensor:
        return self.writes.base_rows[: self.present]

    def _join(self, layer: int) -> Callable[..., Tensor | None]:
        """Append the rows that start at this layer's input."""
        start, stop = (self.job.rows(layer - 1) if layer else 0), self.job.rows(layer)

        def act(value: Tensor, hook: object) -> Tensor | None:
            self.fired.append("join")
            self.present = stop
            if start == stop:
                return None
            new = self._starting(layer, start, stop)
            return new if start == 0 else torch.cat([value, new])

        return act

    def _starting(self, layer: int, start: int, stop: int) -> Tensor:
        """The corrupted residual stream entering a layer, from the column's token on, with what is restored in it."""
        address = (RESID, layer - 1) if layer else (RESID_PRE, 0)
        base = self.session.stacked(self.engine.corruption, address)
        new = base[self.writes.base_rows[start:stop], self.position :].clone()
        for write in self.writes.entering(MLP, layer):  # its share of the residual stream is exchanged
            index, old = write.index(start), self.writes.base_values(write, (MLP, layer - 1))
            new[index] = (new[index] + (write.values - old)).to(new.dtype)
        for write in self.writes.entering(RESID, layer):
            new[write.index(start)] = write.values.to(new.dtype)
        return new

    def _write(self, writes: Sequence[RowWrites]) -> Callable[..., Tensor]:
        def act(value: Tensor, hook: object) -> Tensor:
            self.fired.append("write")
            # OPT flattens rows and tokens inside its MLP, so the shape is put back and restored.
            out = value.reshape(self.present, self.job.width, *value.shape[-writes[0].dims :]).clone()
            for write in writes:
                out[write.index()] = write.values.to(out.device, out.dtype)
            return out.view_as(value)

        return act
