"""Which cells of which prompts share a growing forward, and how much it computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...models.layout import Layout
from ..algebra.cells import place
from ..plain.asked import Asked
from .budget import Budget
from .columns import ColumnCell, Split, column


@dataclass(frozen=True)
class ColumnJob:
    """One forward: cells of one token, for prompts of one length.

    Args:
        position: the token.
        prompts: indices within the session.
        cells: in the order in which they join.
        draws: rows per cell and prompt.
        length: tokens of each prompt, those of the answer fed to it included.
        keep: last positions that are scored.
    """

    position: int
    prompts: tuple[int, ...]
    cells: tuple[ColumnCell, ...]
    draws: int
    length: int
    keep: int

    @property
    def width(self) -> int:
        """Tokens that are run: the column's own and all after it."""
        return self.length - self.position

    def rows(self, layer: int) -> int:
        """Rows in the batch once those that join at this layer have joined."""
        return self.draws * len(self.prompts) * sum(cell.joins <= layer for cell in self.cells)

    def stops_early(self, n_layers: int) -> bool:
        """Whether the last layer is run for the scored tokens only (see `ends`)."""
        return n_layers > 1 and self.width > self.keep

    def token_layers(self, n_layers: int) -> int:
        """Rows x tokens x layers; a token of which the last layer needs only keys and values counts a quarter."""
        full = self.width * sum(self.rows(layer) for layer in range(n_layers - 1))
        rows = self.rows(n_layers - 1)
        if not self.stops_early(n_layers):
            return full + rows * self.width
        return full + rows * self.keep + rows * (self.width - self.keep) // 4


def column_jobs(
    splits: Sequence[Split], asked: Sequence[Asked], first: Sequence[int], n_layers: int, budget: Budget
) -> Iterator[ColumnJob]:
    """The forwards of a group's columns: as many prompts in each as fit, or a part of one prompt's cells.

    Args:
        splits: programs that share one corruption.
        asked: prompts of one length whose answers have one length.
        first: the first token of each prompt at which anything can differ.
        n_layers: of the model.
        budget: of memory.
    """
    length, keep = len(asked[0].ids), len(asked[0].answer)
    draws = splits[0].program.draws or 1
    for position in range(len(asked[0].prompt)):
        active = [index for index in range(len(asked)) if position >= first[index]]
        cells = column(list(splits), n_layers, is_scored=position >= length - keep)
        if not active or not cells:
            continue
        blocks = max(1, budget.rows(length, length - position, keep) // draws)  # of a cell's draws
        if blocks >= len(cells):
            step = blocks // len(cells)
            for start in range(0, len(active), step):
                some = tuple(active[start : start + step])
                yield ColumnJob(position, some, tuple(cells), draws, length, keep)
        else:
            for prompt in active:
                for start in range(0, len(cells), blocks):
                    some_cells = tuple(cells[start : start + blocks])
                    yield ColumnJob(position, (prompt,), some_cells, draws, length, keep)


def first_touched(splits: Sequence[Split], asked: Asked, layout: Layout) -> int:
    """The first token at which the runs that cells start from or read can differ; the prompt's length if none can."""
    runs = {run for one in splits for run in one.runs}
    placed = [write for run in runs for write in place(run, layout, asked.prompt)]
    return min((position for write in placed for position in write.positions), default=len(asked.prompt))
