"""The exact engine: one forward per token gives a whole column of the grid, all layers and all draws.

In a causal decoder a patch at (token t, layer l) changes only tokens from t on and layers from l on.  So a column runs
over the tokens from t on, with the keys and values of the corrupted run in front (`prefix`), and its batch grows: at
the input of each block the rows of the cells that start there join, with the corrupted residual stream and the restored
value in it.  Everything goes through public hook points, so every decoder that allows it is served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import MechinterpError
from ..layout import ATTN, MLP, RESID, RESID_PRE
from .columns import ColumnCell, Split
from .jobs import ColumnJob
from .prefix import prefix_cache
from .programs import Program
from .session import Session


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
    """

    session: Session
    splits: Sequence[Split]

    @property
    def corruption(self) -> Program:
        """What the programs share."""
        return self.splits[0].program.corruption

    def run(self, job: ColumnJob) -> list[ColumnResult]:
        """All cells of one forward."""
        rows = _Rows(job, self.session.model.device)
        logits = _Column(self, rows, job).run()
        self.session.work.token_layers += job.token_layers(self.session.model.n_layers)
        return [
            ColumnResult(prompt, job.position, cell, logits[index * job.draws : (index + 1) * job.draws])
            for index, (cell, prompt) in enumerate(rows.owners)
        ]


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

    def __init__(self, engine: Engine, rows: _Rows, job: ColumnJob) -> None:
        self.engine, self.rows, self.job, self.position = engine, rows, job, job.position
        self.session = engine.session
        self.model = engine.session.model
        self.present = 0
        self.fired: list[str] = []

    def run(self) -> Float[Tensor, "row kept vocab"]:
        model, layout = self.model, self.model.layout
        width = self.job.width
        hooks: list[tuple[str | Callable[..., Any], Callable[..., Any]]] = []
        n_layers = model.n_layers
        for layer in range(n_layers):
            hooks.append((layout.hook(RESID_PRE, layer), self._join(layer)))
            for name in (ATTN, MLP, RESID):
                writes = self._writes(name, layer)
                if writes:
                    hooks.append((layout.hook(name, layer), self._write(writes, width)))
        rows = self.rows.count(n_layers)
        if rows > self.rows.count(n_layers - 1):
            hooks.append((layout.hook(RESID, n_layers - 1), self._join(n_layers)))
        extra = (
            {"past_key_values": prefix_cache(self.session.pairs(self.engine.corruption), self.position, self._samples)}
            if self.position
            else {"use_cache": False}
        )
        # A placeholder of one row: masks and rotary tables keep batch 1 and broadcast over the rows that join later.
        placeholder = torch.zeros(1, width, model.d_model, dtype=model.dtype, device=model.device)
        with torch.no_grad():
            logits: Tensor = model.bridge.run_with_hooks(
                placeholder, fwd_hooks=hooks, logits_to_keep=self.job.keep, **extra
            )
        if len(self.fired) != len(hooks) or logits.shape[0] != rows:
            raise MechinterpError(
                f"{model.name}: {len(self.fired)} of {len(hooks)} hooks of a column fired; use engine='plain'"
            )
        return logits

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
