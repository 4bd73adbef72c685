"""All cells of some programs for the prompts of one session, by the exact engine where it can and plainly elsewhere."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..errors import MechinterpError
from ..layout import RESID_PRE
from .batch import run_jobs
from .cells import Cell, Placed, cells, place
from .columns import ColumnCell, Split, same_cell, split
from .engine import Engine, record_pairs
from .metrics import METRICS, Question, Scores, score
from .programs import Program, nothing
from .session import Address, Session

CHECKED_CELLS = 2
"""Cells per session that are run by both executors and compared."""


@dataclass
class Counts:
    """What a trace did, for the table's metadata.

    Args:
        cells: cells in the table.
        no_op_cells: cells that cannot change anything and were not computed.
        unchanged_cells: cells computed plainly whose restores changed nothing.
        checked_cells: cells run by both executors.
        largest_difference: between the two, in probability.
        token_layers: rows x tokens x layers computed for cells.
        naive_token_layers: what one full forward per cell and draw would have computed.
    """

    cells: int = 0
    no_op_cells: int = 0
    unchanged_cells: int = 0
    checked_cells: int = 0
    largest_difference: float = 0.0
    token_layers: int = 0
    naive_token_layers: int = 0
    plain: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CellScores:
    """The scores of one cell of one prompt."""

    prompt: int
    program: Program
    cell: Cell
    scores: Scores


class Grid:
    """Runs a session's cells.

    Args:
        session: prompts of one token length.
        programs: with axes; the first one's corruption is the baseline.
        questions: what each prompt is scored against.
        counts: added to.
        refused: why no program may use the engine; None: those it can split do.
        seed: of the choice of cells to check.
        checked: how many cells to check per corruption.
    """

    def __init__(
        self,
        session: Session,
        programs: Sequence[Program],
        questions: Sequence[Question],
        counts: Counts,
        *,
        refused: str | None = None,
        seed: int = 0,
        checked: int = CHECKED_CELLS,
    ) -> None:
        self.session, self.programs, self.questions, self.counts = session, programs, questions, counts
        self.seed, self.checked = seed, checked
        self.splits: dict[Program, Split] = {}
        for program in programs:
            found = split(program) if refused is None else refused
            if isinstance(found, Split):
                self.splits[program] = found
            else:
                counts.plain[str(program)] = found

    def run(self) -> Iterator[CellScores]:
        """Scores of every cell, in no particular order."""
        for program in self.programs:
            if program not in self.splits:
                yield from self._plainly(program)
        for corruption in dict.fromkeys(program.corruption for program in self.splits):
            yield from self._exactly(corruption)

    def _plainly(self, program: Program) -> Iterator[CellScores]:
        layout = self.session.model.layout
        for index, asked in enumerate(self.session.asked):
            grid = [(cell, place(program, layout, asked.prompt, cell)) for cell in cells(program, layout, asked.prompt)]
            for cell, scores, changed in self._forward(index, program, grid):
                self.counts.cells += 1
                self.counts.unchanged_cells += not changed
                self._count_tokens(len(asked.ids), program, naive_only=False)
                yield CellScores(index, program, cell, scores)

    def _forward(
        self, index: int, program: Program, grid: list[tuple[Cell, list[Placed]]]
    ) -> Iterator[tuple[Cell, Scores, bool]]:
        """Cells of one prompt, each a full forward."""
        self.session.prepare((program, writes) for _, writes in grid)
        jobs = [self.session.job(index, program, writes, key=cell) for cell, writes in grid]
        results = run_jobs(self.session.model, jobs, max_tokens=self.session.max_tokens)
        for (cell, _), result in zip(grid, results, strict=True):
            yield cell, score(result.logits, self.questions[index]), result.changed

    def _exactly(self, corruption: Program) -> Iterator[CellScores]:
        """Columns of all programs with one corruption; cells left out of them equal the corrupted run."""
        session, n_layers = self.session, self.session.model.n_layers
        splits = [one for program, one in self.splits.items() if program.corruption == corruption]
        self._prepare(splits, corruption)
        engine = Engine(session, splits, record_pairs(session, corruption))
        corrupted = [
            score(logits, question) for logits, question in zip(session.run(corruption), self.questions, strict=True)
        ]
        checks = self._choose_checks(splits)
        first = [self._first_touched(index, splits) for index in range(len(session.asked))]
        for position in range(max(len(asked.prompt) for asked in session.asked)):
            present = [i for i, asked in enumerate(session.asked) if position < len(asked.prompt)]
            active = [i for i in present if position >= first[i]]
            found: dict[tuple[int, tuple[Split, int, int]], Scores] = {}
            for some in self._chunks(active, position, splits, n_layers):
                for prompt, cell, scores in self._column(engine, position, some):
                    found[prompt, (cell.split, cell.first, cell.stop)] = scores
            for index in present:
                for one in splits:
                    for layer in range(n_layers):
                        computed = found.get((index, same_cell(one, layer, n_layers)))
                        self.counts.cells += 1
                        self.counts.no_op_cells += computed is None
                        self._count_tokens(len(session.asked[index].ids), one.program, naive_only=True)
                        final = corrupted[index] if computed is None else computed
                        if (index, one, position, layer) in checks:
                            self._check(index, one.program, Cell(position, layer), final)
                        yield CellScores(index, one.program, Cell(position, layer), final)
        self.counts.token_layers += engine.token_layers

    def _prepare(self, splits: list[Split], corruption: Program) -> None:
        wanted: dict[Program, dict[Address, None]] = {corruption: {(RESID_PRE, 0): None}, nothing: {}}
        for program, addresses in Engine.needs(splits, self.session.model.n_layers):
            wanted.setdefault(program, {}).update(dict.fromkeys(addresses))
        for program, reads in wanted.items():
            self.session.run(program, list(reads))

    def _column(self, engine: Engine, position: int, prompts: list[int]) -> Iterator[tuple[int, ColumnCell, Scores]]:
        """The scored cells of one column, each prompt's logits scored in one go."""
        by_prompt: dict[int, list[tuple[ColumnCell, torch.Tensor]]] = {}
        for result in engine.columns(position, prompts):
            by_prompt.setdefault(result.prompt, []).append((result.cell, result.logits))
        for prompt, parts in by_prompt.items():
            together = score(torch.cat([logits for _, logits in parts]), self.questions[prompt])
            start = 0
            for cell, logits in parts:
                stop = start + len(logits)
                yield prompt, cell, Scores(*(getattr(together, metric)[start:stop] for metric in METRICS))
                start = stop

    def _chunks(self, prompts: list[int], position: int, splits: list[Split], n_layers: int) -> Iterator[list[int]]:
        """Prompts that share a forward within the token budget."""
        width = len(self.session.asked[0].ids) - position
        rows = len(splits) * n_layers * (splits[0].program.draws or 1)
        size = max(1, self.session.max_tokens // (rows * width))
        for start in range(0, len(prompts), size):
            yield prompts[start : start + size]

    def _first_touched(self, index: int, splits: list[Split]) -> int:
        """The first token at which the runs that cells start from or read can differ; the length if they cannot."""
        prompt = self.session.asked[index].prompt
        runs = set().union(*(one.runs for one in splits))
        placed = [write for run in runs for write in place(run, self.session.model.layout, prompt)]
        return min((position for write in placed for position in write.positions), default=len(prompt))

    def _count_tokens(self, length: int, program: Program, *, naive_only: bool) -> None:
        tokens = (program.draws or 1) * length * self.session.model.n_layers
        self.counts.naive_token_layers += tokens
        self.counts.token_layers += 0 if naive_only else tokens

    def _choose_checks(self, splits: list[Split]) -> set[tuple[int, Split, int, int]]:
        """A seeded sample of cells to run twice."""
        generator = random.Random(f"{self.seed} {[asked.prompt.prompt.name for asked in self.session.asked]}")
        chosen = set()
        for _ in range(self.checked):
            index = generator.randrange(len(self.session.asked))
            position = generator.randrange(len(self.session.asked[index].prompt))
            chosen.add((index, generator.choice(splits), position, generator.randrange(self.session.model.n_layers)))
        return chosen

    def _check(self, index: int, program: Program, cell: Cell, exact: Scores) -> None:
        """Compare a cell with the plain executor.

        Raises:
            MechinterpError: they differ by more than rounding.
        """
        session = self.session
        asked = session.asked[index].prompt
        writes = place(program, session.model.layout, asked, cell)
        _, plain, _ = next(self._forward(index, program, [(cell, writes)]))
        difference = float(np.abs(plain.prob - exact.prob).max())
        relative = float(np.abs(plain.log_prob - exact.log_prob).max())  # sees what a tiny probability hides
        self.counts.checked_cells += 1
        self.counts.largest_difference = max(self.counts.largest_difference, difference)
        tolerance = check_tolerance(session.model.dtype)
        if not (difference <= tolerance and relative <= 50 * tolerance):
            raise MechinterpError(
                f"the exact engine and the plain executor differ by {difference:.2g} in probability "
                f"({relative:.2g} nats) at token {cell.position}, layer {cell.layer} of {asked.prompt.text!r}; "
                "trace with engine='plain'"
            )


def check_tolerance(dtype: torch.dtype) -> float:
    """Largest difference in probability that rounding explains."""
    return {torch.float64: 1e-10, torch.float32: 2e-5}.get(dtype, 5e-2)
