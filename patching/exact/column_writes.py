"""What is written to the rows of a column: which rows, which tokens, and the values, gathered in a few steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...models.layout import PER_HEAD, RESID, RESID_PRE
from ..algebra.cells import Placed
from ..algebra.programs import Program
from ..plain.session import Session
from .column_jobs import ColumnJob
from .columns import Address


@dataclass(frozen=True, eq=False)
class RowWrites:
    """Values for some rows of a column, each at as many tokens (and of as many heads) as the others.

    Args:
        rows: which.
        positions: tokens of each row, counted from the prompt's first.
        heads: heads of each row; None for all at once.
        values: what is written.
        start: the column's first token.
        dims: dimensions of the activation behind the token axis, 2 where it has heads.
    """

    rows: Int[Tensor, " row"]
    positions: Int[Tensor, "row at"]
    heads: Int[Tensor, "row head"] | None
    values: Float[Tensor, "row at *width"]
    start: int
    dims: int

    def index(self, first: int = 0) -> tuple[Tensor, ...]:
        """Where the values belong in [row, token of the column, ...], of which row `first` is the first."""
        rows, tokens = self.rows - first, self.positions - self.start
        if self.heads is None:
            return rows[:, None], tokens
        return rows[:, None, None], tokens[:, :, None], self.heads[:, None, :]


@dataclass
class _Alike:
    """Cells that read the same run and write at as many tokens and heads."""

    cells: list[int] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)


class ColumnWrites:
    """The writes of one column; its rows are a block of draws for each cell and prompt, cell by cell.

    Args:
        session: whose runs the values come from.
        corruption: the run that the rows start from.
        job: the column.
    """

    def __init__(self, session: Session, corruption: Program, job: ColumnJob) -> None:
        self.session, self.corruption, self.job = session, corruption, job
        device = session.model.device
        self._draws = torch.arange(job.draws, device=device)
        self._prompts = torch.tensor(job.prompts, device=device)
        prompts = self._prompts.repeat(len(job.cells)).repeat_interleave(job.draws)
        samples = prompts * job.draws + self._draws.repeat(len(job.cells) * len(job.prompts))
        self._prompt_of, self._sample_of = prompts, samples
        self.base_rows = prompts if corruption.draws is None else samples
        self._during: dict[Address, list[tuple[int, Placed]]] = defaultdict(list)
        self._before: dict[Address, list[tuple[int, Placed]]] = defaultdict(list)
        self._given: dict[tuple[int, Placed], list[Tensor]] = {}
        for number, cell in enumerate(job.cells):
            for placed in cell.writes:
                if self._source(number, placed) is None:
                    self._given[number, placed] = self._no_run_gives(number, placed)
                name, layer = placed.component, placed.layer
                if name == RESID_PRE:  # only that of the first layer has an address of its own
                    self._before[RESID, 0].append((number, placed))
                elif layer < cell.joins:
                    self._before[name, cell.joins].append((number, placed))
                else:
                    self._during[name, layer].append((number, placed))

    def at(self, component: str, layer: int) -> list[RowWrites]:
        """What is written to a component while a layer runs."""
        return self._gathered(self._during.get((component, layer), ()))

    def entering(self, component: str, layer: int) -> list[RowWrites]:
        """What is put into the residual stream of the rows that join at the input of a layer."""
        return self._gathered(self._before.get((component, layer), ()))

    def base_values(self, write: RowWrites, address: Address) -> Tensor:
        """What the corrupted run has where something is written to whole activations."""
        return self._of_run(self.corruption, address, write.rows, write.positions, None)

    def _gathered(self, writes: Iterable[tuple[int, Placed]]) -> list[RowWrites]:
        alike: dict[tuple[object, ...], _Alike] = defaultdict(_Alike)
        for number, placed in writes:
            source = self._source(number, placed)
            part = alike[source, len(placed.positions), len(placed.heads)]
            part.cells.append(number)
            part.placed.append(placed)
        return [self._rows(source, part) for (source, *_), part in alike.items()]  # type: ignore[arg-type]

    def _source(self, number: int, placed: Placed) -> Program | None:
        return self.job.cells[number].split.sources[placed.write]

    def _rows(self, source: Program | None, part: _Alike) -> RowWrites:
        per_cell = len(self.job.prompts) * self.job.draws
        device = self.session.model.device
        cells = torch.tensor(part.cells, device=device)
        rows = (cells[:, None] * per_cell + torch.arange(per_cell, device=device)).flatten()
        first = part.placed[0]
        positions = self._each_row([placed.positions for placed in part.placed], per_cell)
        heads = self._each_row([placed.heads for placed in part.placed], per_cell) if first.heads else None
        if source is None:
            values = torch.cat([self._made(number, one) for number, one in zip(part.cells, part.placed, strict=True)])
        else:
            values = self._of_run(source, (first.component, first.layer), rows, positions, heads)
        dims = 2 if first.component in PER_HEAD else 1
        return RowWrites(rows, positions, heads, values, self.job.position, dims)

    def _each_row(self, numbers: list[tuple[int, ...]], per_cell: int) -> Tensor:
        return torch.tensor(numbers, device=self.session.model.device).repeat_interleave(per_cell, 0)

    def _of_run(
        self, program: Program, address: Address, rows: Tensor, positions: Tensor, heads: Tensor | None
    ) -> Tensor:
        """Activations of a run, [row, position, (head,) ...]."""
        values = self.session.stacked(program, address)
        sources = (self._prompt_of if program.draws is None else self._sample_of)[rows]
        if heads is None:
            return values[sources[:, None], positions]
        return values[sources[:, None, None], positions[:, :, None], heads[:, None, :]]

    def _no_run_gives(self, number: int, placed: Placed) -> list[Tensor]:
        """Values of noise, other sentences, means or the user's own, prompt by prompt.

        They may need forwards of their own, so they are here before the column's starts.
        """
        program = self.job.cells[number].split.program
        return [self.session.values(prompt, placed, program) for prompt in self.job.prompts]

    def _made(self, number: int, placed: Placed) -> Tensor:
        """Values that no run gives, draw by draw."""
        each = self._given[number, placed]
        return torch.cat([values.expand(self.job.draws, *values.shape[1:]) for values in each])
