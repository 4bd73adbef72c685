"""The plan of one group of prompts: what is run for it, in which forwards, and what that costs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...models.model import Model
from ..algebra.cells import Cell, cells
from ..algebra.programs import Program, nothing
from ..plain.asked import Asked
from ..plain.session import Session, runs_behind
from .budget import Budget
from .column_jobs import ColumnJob, column_jobs
from .columns import Cells, PromptCells, Split, reads_of, split
from .price import Price

CHECKED_CELLS = 2
"""Cells per group and corruption of which one draw is run by both executors and compared."""

Check = tuple[int, Program, Cell]
"""Prompt, program and cell."""


@dataclass(frozen=True, eq=False)
class Exact:
    """The columns of the programs that share one corruption and a number of draws.

    Args:
        corruption: what they share.
        draws: rows of each cell.
        splits: the programs.
        cells: of each prompt, program by program.
        jobs: the forwards.
        checks: cells to compare with the plain executor -> the draw to compare.
    """

    corruption: Program
    draws: int
    splits: tuple[Split, ...]
    cells: tuple[Mapping[Split, PromptCells], ...]
    jobs: tuple[ColumnJob, ...]
    checks: Mapping[Check, int]

    @property
    def size(self) -> int:
        """How many cells, those that need no computing included."""
        return sum(len(of_program) for of_prompt in self.cells for of_program in of_prompt.values())


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """What happens to some prompts of one length.

    Args:
        indices: their numbers in the trace.
        asked: the prompts.
        programs: the first one's corruption is the baseline.
        exact: the columns, corruption by corruption.
        plain: programs that every cell is run in full for -> why.
        budget: of memory.
        price: of all of it.
    """

    indices: tuple[int, ...]
    asked: tuple[Asked, ...]
    programs: tuple[Program, ...]
    exact: tuple[Exact, ...]
    plain: dict[Program, str]
    budget: Budget
    price: Price

    def session(self) -> Session:
        """A session that knows what will be read, so that each run happens once."""
        model = self.budget.model
        session = Session(model, self.asked, self.budget.rows(self.length, self.length, self.keep) * self.length)
        session.want(nothing)
        session.want(self.programs[0].corruption)
        for part in self.exact:
            session.want(part.corruption, pairs=True)
            for program, reads in reads_of(part.splits, model.n_layers).items():
                session.want(program, reads)
        return session

    @property
    def length(self) -> int:
        """Tokens of each prompt, those of the answer fed to it included."""
        return len(self.asked[0].ids)

    @property
    def keep(self) -> int:
        """Positions that are scored."""
        return len(self.asked[0].answer)


def split_programs(programs: Sequence[Program], refused: str | None) -> tuple[dict[Program, Split], dict[Program, str]]:
    """Which programs the exact engine runs, and why it does not run the others."""
    splits: dict[Program, Split] = {}
    plain: dict[Program, str] = {}
    for program in programs:
        found = split(program) if refused is None else refused
        if isinstance(found, Split):
            splits[program] = found
        else:
            plain[program] = found
    return splits, plain


def plan_group(
    model: Model,
    indices: Sequence[int],
    asked: Sequence[Asked],
    programs: Sequence[Program],
    budget: Budget,
    *,
    refused: str | None = None,
    seed: int = 0,
    checked: int = CHECKED_CELLS,
) -> GroupPlan:
    """Plan a group; nothing is run.

    Args:
        model: the model.
        indices: numbers of the prompts in the trace.
        asked: the prompts, alike in length and answer length.
        programs: with axes.
        budget: of memory.
        refused: why no program may use the engine; None: those it can split do.
        seed: of the choice of cells to check.
        checked: how many cells to check per corruption.
    """
    splits, plain = split_programs(programs, refused)
    cells_of = Cells(model.layout, len(asked[0].ids), len(asked[0].answer))
    exact = []
    for corruption, draws in dict.fromkeys((program.corruption, program.draws or 1) for program in splits):
        some = tuple(
            one for program, one in splits.items() if (program.corruption, program.draws or 1) == (corruption, draws)
        )
        grid = tuple({one: cells_of.of(one, prompt) for one in some} for prompt in asked)
        jobs = tuple(column_jobs(grid, asked, draws, budget))
        exact.append(Exact(corruption, draws, some, grid, jobs, _choose(grid, asked, draws, seed, checked)))
    price = _price(model, asked, programs, exact, plain, budget)
    return GroupPlan(tuple(indices), tuple(asked), tuple(programs), tuple(exact), plain, budget, price)


def _choose(
    grid: Sequence[Mapping[Split, PromptCells]], asked: Sequence[Asked], draws: int, seed: int, count: int
) -> dict[Check, int]:
    """A seeded sample of cells, and of each a draw, to run twice."""
    generator = random.Random(f"{seed} {[one.prompt.prompt.name for one in asked]}")
    chosen: dict[Check, int] = {}
    for _ in range(count):
        index = generator.randrange(len(asked))
        one = generator.choice(list(grid[index]))
        cell = generator.choice(list(grid[index][one]))
        chosen[index, one.program, cell] = generator.randrange(draws)
    return chosen


def kept_per_prompt(
    splits: Sequence[Split], programs: Sequence[Program], length: int, keep: int, budget: Budget
) -> int:
    """Bytes kept of one prompt's runs; of programs run plainly only the logits are counted."""
    reads = reads_of(splits, budget.model.n_layers)
    corruptions = {one.program.corruption for one in splits}
    return sum(
        budget.kept_bytes(
            length, keep, rows=run.draws or 1, activations=len(reads.get(run, ())), pairs=run in corruptions
        )
        for run in runs_behind(programs)
    )


def _price(
    model: Model,
    asked: Sequence[Asked],
    programs: Sequence[Program],
    exact: Sequence[Exact],
    plain: dict[Program, str],
    budget: Budget,
) -> Price:
    n_layers, length, keep = model.n_layers, len(asked[0].ids), len(asked[0].answer)
    full = length * n_layers
    splits = [one for part in exact for one in part.splits]
    total = Price(
        prompts=len(asked),
        token_layers=len(asked) * full * sum(run.draws or 1 for run in runs_behind(programs)),
        kept=len(asked) * kept_per_prompt(splits, programs, length, keep, budget),
    )
    per_forward = budget.rows(length, length, keep)
    for run in runs_behind(programs):
        total += Price(forwards=-(-len(asked) // max(1, per_forward // (run.draws or 1))))
    for program in programs:
        draws = program.draws or 1
        grid = sum(1 for one in asked for _ in cells(program, model.layout, one.prompt))
        total += Price(cells=grid, rows=grid * draws, naive_token_layers=grid * draws * full)
        if program in plain:
            together = max(1, per_forward // draws)
            each = -(-(grid // len(asked)) // together)
            peak = draws * min(together, grid // len(asked)) * budget.row_bytes(length, length, keep)
            work = grid * draws * full
            total += Price(forwards=len(asked) * each, token_layers=work, plain_token_layers=work, peak=peak)
    for part in exact:
        checked = full * len(part.checks)  # a draw of each
        total += Price(
            no_op_cells=part.size - sum(len(job.cells) * len(job.prompts) for job in part.jobs),
            forwards=len(part.jobs) + len(part.checks),
            token_layers=checked + sum(job.token_layers(n_layers) for job in part.jobs),
        )
        ends = sum(job.rows(n_layers) for job in part.jobs if job.stops_early(n_layers))
        waiting = min(ends, budget.rows(length, keep, keep)) * budget.row_bytes(length, keep, keep)
        for job in part.jobs:
            total += Price(peak=waiting + job.rows(n_layers) * budget.row_bytes(length, job.width, keep))
    return total
