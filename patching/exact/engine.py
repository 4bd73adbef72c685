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
from ...models.door import Hook
from ...models.layout import ATTN, MLP, RESID, RESID_PRE
from ..algebra.programs import Program
from ..plain.jobs import Pair
from ..plain.session import Session
from .column_jobs import ColumnJob
from .columns import ColumnCell, Split
from .ends import Ends, KeysReady, LastLayer
from .prefix import PrefixLayer


@dataclass(frozen=True, eq=False)
class ColumnResult:
    """Logits of one cell of one prompt, [draws, kept, vocab]."""

    prompt: int
    position: int
    cell: ColumnCell
    logits: Tensor


@dataclass(eq=False)
class Engine:
    """Columns for the prompts of one session and the programs of one corruption.

    Args:
        session: prompts alike in length, whose runs have been done with what `columns.reads_of` says.
        splits: the programs.
        most_waiting: rows that may wait for the last layer.
    """

    session: Session
    splits: Sequence[Split]
    most_waiting: int

    def __post_init__(self) -> None:
        asked = self.session.asked[0]
        pairs = self.session.pairs(self.corruption)
        self._ends: Ends[tuple[ColumnJob, ColumnCell, int]] = Ends(
            self.session.model, pairs, self.session.ids, len(asked.answer)
        )

    @property
    def corruption(self) -> Program:
        """What the programs share."""
        return self.splits[0].program.corruption

    def run(self, job: ColumnJob) -> Iterator[ColumnResult]:
        """One forward; gives the cells that are finished, of this job or of earlier ones."""
        column = _Column(self, job)
        owners = [(job, cell, prompt) for cell, prompt in column.rows.owners]
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


def _results(owners: list[tuple[ColumnJob, ColumnCell, int]], logits: Tensor) -> Iterator[ColumnResult]:
    start = 0
    for job, cell, prompt in owners:
        yield ColumnResult(prompt, job.position, cell, logits[start : start + job.draws])
        start += job.draws


class _Rows:
    """Who the rows of a column are: a block of draws for each cell and prompt, in the order in which cells join."""

    def __init__(self, job: ColumnJob, device: torch.device) -> None:
        self.owners = [(cell, prompt) for cell in job.cells for prompt in job.prompts]
        self.draws = draws = job.draws
        self.device = device
        self.count = job.rows
        self.prompt = torch.tensor([prompt for _, prompt in self.owners], device=device).repeat_interleave(draws)
        self.sample = self.prompt * draws + torch.arange(draws, device=device).repeat(len(self.owners))

    def where(self, one: Split, chosen: Callable[[ColumnCell], bool], start: int, stop: int) -> Tensor:
        """Those of the rows from `start` to `stop` that are chosen cells of one program."""
        owned = ((i, self.owners[i][0]) for i in range(start // self.draws, stop // self.draws))
        blocks = [i for i, cell in owned if cell.split is one and chosen(cell)]
        picked = torch.tensor(blocks, dtype=torch.long, device=self.device)
        return (picked[:, None] * self.draws + torch.arange(self.draws, device=self.device)).flatten()


class _Column:
    """One growing forward."""

    def __init__(self, engine: Engine, job: ColumnJob) -> None:
        self.engine, self.job, self.position = engine, job, job.position
        self.session = engine.session
        self.model = engine.session.model
        self.rows = _Rows(job, self.model.device)
        self.present = 0
        self.fired: list[str] = []

    def run(self) -> Float[Tensor, "row kept vocab"]:
        """Through all layers."""
        n_layers = self.model.n_layers
        hooks = self._hooks(n_layers)
        rows = self.rows.count(n_layers)
        if rows > self.rows.count(n_layers - 1):
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
        cache = self._prefix(last_layer=LastLayer)
        layer: Any = cache.layers[last]
        with suppress(KeysReady):
            self._forward(hooks, cache)
        self._check(len(hooks), len(arrived) == 1 and hasattr(layer, "found"))
        return arrived[0], layer.found

    def _hooks(self, layers: int) -> list[Hook]:
        """Joins and writes of the first layers."""
        layout = self.model.layout
        hooks: list[Hook] = []
        for layer in range(layers):
            hooks.append((layout.hook(RESID_PRE, layer), self._join(layer)))
            for name in (ATTN, MLP, RESID):
                writes = self._writes(name, layer)
                if writes:
                    hooks.append((layout.hook(name, layer), self._write(writes, self.job.width)))
        return hooks

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

    def _forward(self, hooks: list[Hook], cache: Cache) -> Tensor:
        model = self.model
        # A placeholder of one row: masks and rotary tables keep batch 1 and broadcast over the rows that join later.
        placeholder = torch.zeros(1, self.job.width, model.d_model, dtype=model.dtype, device=model.device)
        logits: Tensor = model.forward(
            placeholder, hooks, stands_for=self.session.ids, logits_to_keep=self.job.keep, past_key_values=cache
        )
        return logits

    def _check(self, hooks: int, sound: bool) -> None:
        if len(self.fired) != hooks or not sound:
            raise MechinterpError(
                f"{self.model.name}: {len(self.fired)} of {hooks} hooks of a column fired; use engine='plain'"
            )

    def _samples(self) -> Tensor:
        return self.rows.sample[: self.present]

    def _join(self, layer: int) -> Callable[..., Tensor | None]:
        """Append the rows that start at this layer's input."""
        start, stop = (self.rows.count(layer - 1) if layer else 0), self.rows.count(layer)

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
        corruption = self.engine.corruption
        address = (RESID, layer - 1) if layer else (RESID_PRE, 0)
        new = self.session.stacked(corruption, address)[self.rows.sample[start:stop], self.position :].clone()
        for one in self.engine.splits:
            if one.component == ATTN:
                continue  # written where attention adds it: the layer's MLP has yet to see it
            index = self.rows.where(one, lambda cell: cell.joins > cell.first, start, stop)
            if len(index) == 0:
                continue
            restored = self._from(one.restored_from, one.component, layer - 1, index)
            if one.component == MLP:  # its share of the residual stream is exchanged
                old = self._from(corruption, MLP, layer - 1, index)
                restored = new[index - start, 0] + (restored - old)
            new[index - start, 0] = restored
        return new

    def _from(self, program: Program, name: str, layer: int, index: Tensor) -> Tensor:
        """Activations of a run at the column's token for some rows, [row, d_model]."""
        values = self.session.stacked(program, (name, layer))
        deterministic = values.shape[0] == len(self.session.asked)
        return values[(self.rows.prompt if deterministic else self.rows.sample)[index], self.position]

    def _writes(self, name: str, layer: int) -> list[tuple[Tensor, Tensor]]:
        """Row indices and values to write to what attention or an MLP adds in one layer."""
        found: list[tuple[Tensor, Tensor]] = []
        present = self.rows.count(layer)

        def write(one: Split, chosen: Callable[[ColumnCell], bool], source: Program) -> None:
            index = self.rows.where(one, chosen, 0, present)
            if len(index):
                found.append((index, self._from(source, name, layer, index)))

        for one in self.engine.splits:
            if one.component == name:
                write(one, lambda cell: max(cell.first, cell.joins) <= layer < cell.stop, one.restored_from)
            for severed, source in one.severed:
                if severed == name:
                    write(one, lambda cell: True, source)
        return found

    def _write(self, writes: list[tuple[Tensor, Tensor]], width: int) -> Callable[..., Tensor]:
        def act(value: Tensor, hook: object) -> Tensor:
            self.fired.append("write")
            # OPT flattens rows and tokens inside its MLP, so the shape is put back and restored.
            out = value.reshape(self.present, width, -1).clone()
            for index, values in writes:
                out[index, 0] = values
            return out.view_as(value)

        return act
