"""All cells of some programs for the prompts of one group, by the exact engine where it can and plainly elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import MechinterpError
from ...forwards.unembedding import joined
from ..algebra.cells import Cell, Placed, cells, place
from ..algebra.programs import Program
from ..plain.jobs import run_jobs
from ..plain.metrics import Question, Scores, score
from ..plain.precision import check_tolerance
from ..plain.session import Session
from .column_jobs import ColumnJob
from .columns import ColumnCell
from .engine import ColumnResult, Engine
from .group import Exact, GroupPlan

ColumnKey = tuple[int, ColumnCell]
"""Prompt, and what is restored there."""


@dataclass
class Counts:
    """What a trace did, for the table's metadata.

    Args:
        cells: cells in the table.
        no_op_cells: cells that equal the corrupted run or another cell, and were not computed.
        unchanged_cells: cells computed plainly whose restores changed nothing.
        checked_cells: cells of which a draw was run by both executors.
        largest_difference: between the two, in probability.
        resolution: the largest change in probability that the last digit of a logit can make.
        token_layers: rows x tokens x layers of everything that was run.
        naive_token_layers: what one full forward per cell and draw would have computed.
        plain: programs whose cells were run in full, and why.
    """

    cells: int = 0
    no_op_cells: int = 0
    unchanged_cells: int = 0
    checked_cells: int = 0
    largest_difference: float = 0.0
    resolution: float = 0.0
    token_layers: int = 0
    naive_token_layers: int = 0
    plain: dict[str, str] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Count what another part of the trace did."""
        for name in ("cells", "no_op_cells", "unchanged_cells", "checked_cells", "token_layers", "naive_token_layers"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest_difference = max(self.largest_difference, other.largest_difference)
        self.resolution = max(self.resolution, other.resolution)
        self.plain.update(other.plain)


@dataclass(frozen=True, eq=False)
class CellScores:
    """The scores of one cell of one prompt."""

    prompt: int
    program: Program
    cell: Cell
    scores: Scores


class Grid:
    """Runs a group's cells.

    Args:
        session: from the plan.
        plan: what to run.
        questions: what each prompt is scored against.
    """

    def __init__(self, session: Session, plan: GroupPlan, questions: Sequence[Question]) -> None:
        self.session, self.plan, self.questions = session, plan, questions
        self.counts = Counts(plain={str(program): reason for program, reason in plan.plain.items()})

    def run(self) -> Iterator[CellScores]:
        """Scores of every cell, in no particular order."""
        self.counts.naive_token_layers = self.plan.price.naive_token_layers
        for program in self.plan.plain:
            yield from self._plainly(program)
        for part in self.plan.exact:
            yield from self._exactly(part)
        self.counts.token_layers = self.session.work.token_layers

    def _plainly(self, program: Program) -> Iterator[CellScores]:
        layout = self.session.model.layout
        for index, asked in enumerate(self.session.asked):
            grid = [(cell, place(program, layout, asked.prompt, cell)) for cell in cells(program, layout, asked.prompt)]
            for cell, scores, changed in self.forward(index, program, grid):
                self.counts.cells += 1
                self.counts.unchanged_cells += not changed
                yield CellScores(index, program, cell, scores)

    def forward(
        self, index: int, program: Program, grid: list[tuple[Cell, list[Placed]]], *, draw: int | None = None
    ) -> Iterator[tuple[Cell, Scores, bool]]:
        """Cells of one prompt, each a full forward, of all draws or of one."""
        session = self.session
        session.run_sources((program, writes) for _, writes in grid)
        jobs = [session.job(index, program, writes, key=cell, draw=draw) for cell, writes in grid]
        session.work.add(jobs, session.model.n_layers)
        results = run_jobs(session.model, jobs, max_tokens=session.max_tokens)
        for (cell, _), result in zip(grid, results, strict=True):
            yield cell, score(result.logits, self.questions[index]), result.changed

    def _exactly(self, part: Exact) -> Iterator[CellScores]:
        """Columns of the programs with one corruption; cells left out of them equal the corrupted run."""
        session = self.session
        self.run_sources(part)
        corrupted = [
            score(logits.expand(part.draws, -1, -1) if len(logits) == 1 else logits, question)
            for logits, question in zip(session.run(part.corruption), self.questions, strict=True)
        ]
        found = dict(self.columns(part))
        for index, of_prompt in enumerate(part.cells):
            for one, of_program in of_prompt.items():
                for cell, computed in of_program.items():
                    scores = corrupted[index] if computed is None else found[index, computed]
                    self.counts.cells += 1
                    draw = part.checks.get((index, one.program, cell))
                    if draw is not None:
                        self._check(index, one.program, cell, scores, draw)
                    yield CellScores(index, one.program, cell, scores)
        self.counts.no_op_cells += part.size - len(found)

    def run_sources(self, part: Exact) -> None:
        """Do the runs that some columns start from and read."""
        for program in {run for one in part.splits for run in one.runs}:
            self.session.run(program)

    def columns(self, part: Exact, jobs: Iterable[ColumnJob] | None = None) -> Iterator[tuple[ColumnKey, Scores]]:
        """The cells that some forwards compute (all unless named), as they are finished."""
        session, asked = self.session, self.session.asked[0]
        length, keep = len(asked.ids), len(asked.answer)
        engine = Engine(session, part.corruption, self.plan.budget.rows(length, keep, keep))
        for job in part.jobs if jobs is None else jobs:
            yield from self._scored(engine.run(job))
        yield from self._scored(engine.finish())

    def _scored(self, results: Iterable[ColumnResult]) -> Iterator[tuple[ColumnKey, Scores]]:
        """The results of one forward, each prompt's logits scored in one go."""
        by_prompt: dict[int, list[ColumnResult]] = {}
        for result in results:
            by_prompt.setdefault(result.prompt, []).append(result)
        for prompt, parts in by_prompt.items():
            together = score(joined([one.logits for one in parts]), self.questions[prompt])
            start = 0
            for one in parts:
                stop = start + len(one.logits)
                yield (prompt, one.cell), together.part(start, stop)
                start = stop

    def _check(self, index: int, program: Program, cell: Cell, exact: Scores, draw: int) -> None:
        """Compare a draw of a cell with the plain executor.

        Raises:
            MechinterpError: they differ by more than rounding.
        """
        session = self.session
        asked = session.asked[index].prompt
        writes = place(program, session.model.layout, asked, cell)
        _, plain, _ = next(self.forward(index, program, [(cell, writes)], draw=draw))
        difference = float(np.abs(plain.prob - exact.prob[draw]).max())
        relative = float(np.abs(plain.log_prob - exact.log_prob[draw]).max())  # sees what a tiny probability hides
        self.counts.checked_cells += 1
        self.counts.largest_difference = max(self.counts.largest_difference, difference)
        in_prob, in_nats = check_tolerance(session.model.dtype)
        if not (difference <= in_prob and relative <= in_nats):
            raise MechinterpError(
                f"the exact engine and the plain executor differ by {difference:.2g} in probability "
                f"({relative:.2g} nats) at {cell} of {asked.prompt.text!r}; "
                "trace with engine='plain'"
            )
