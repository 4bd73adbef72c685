"""Which cells of which prompts share a growing forward, and how much it computes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..plain.asked import Asked
from .budget import Budget
from .columns import ColumnCell, PromptCells, Split


@dataclass(frozen=True)
class ColumnJob:
    """One forward: cells that start at one token, for prompts of one length.

    Args:
        position: the token.
        prompts: indices within the session.
        cells: in the order in which they join.
        draws: rows per cell and prompt.
        length: tokens of each prompt, those of the answer fed to it included.
        keep: last positions that are scored.
        is_scored: whether the cells may change the last layer at a scored token.
    """

    position: int
    prompts: tuple[int, ...]
    cells: tuple[ColumnCell, ...]
    draws: int
    length: int
    keep: int
    is_scored: bool

    @property
    def width(self) -> int:
        """Tokens that are run: the column's own and all after it."""
        return self.length - self.position

    def rows(self, layer: int) -> int:
        """Rows in the batch once those that join at this layer have joined."""
        return self.draws * len(self.prompts) * sum(cell.joins <= layer for cell in self.cells)

    def stops_early(self, n_layers: int) -> bool:
        """Whether the last layer is run for the scored tokens only (see `ends`)."""
        return n_layers > 1 and not self.is_scored

    def token_layers(self, n_layers: int) -> int:
        """Rows x tokens x layers; a token of which the last layer needs only keys and values counts a quarter."""
        full = self.width * sum(self.rows(layer) for layer in range(n_layers - 1))
        rows = self.rows(n_layers - 1)
        if not self.stops_early(n_layers):
            return full + rows * self.width
        return full + rows * self.keep + rows * (self.width - self.keep) // 4


def column_jobs(
    cells: Sequence[Mapping[Split, PromptCells]], asked: Sequence[Asked], draws: int, budget: Budget
) -> Iterator[ColumnJob]:
    """The forwards of a group's columns: as many prompts in each as fit, or a part of one prompt's cells.

    Args:
        cells: of each prompt, program by program.
        asked: prompts of one length whose answers have one length.
        draws: rows of each cell.
        budget: of memory.
    """
    length, keep = len(asked[0].ids), len(asked[0].answer)
    columns: dict[tuple[int, bool], dict[tuple[ColumnCell, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, of_prompt in enumerate(cells):
        for column, mine in _columns(of_prompt, length, keep).items():
            columns[column][tuple(sorted(mine, key=lambda cell: cell.joins))].append(index)
    for (position, is_scored), shared in sorted(columns.items()):
        blocks = max(1, budget.rows(length, length - position, keep) // draws)  # of a cell's draws
        for some, prompts in shared.items():
            if blocks >= len(some):
                step = blocks // len(some)
                for start in range(0, len(prompts), step):
                    yield ColumnJob(
                        position, tuple(prompts[start : start + step]), some, draws, length, keep, is_scored
                    )
            else:
                for prompt in prompts:
                    for start in range(0, len(some), blocks):
                        part = some[start : start + blocks]
                        yield ColumnJob(position, (prompt,), part, draws, length, keep, is_scored)


def _columns(cells: Mapping[Split, PromptCells], length: int, keep: int) -> dict[tuple[int, bool], list[ColumnCell]]:
    """A prompt's cells by the token where they start, and by whether they need the whole of the last layer."""
    found: dict[tuple[int, bool], dict[ColumnCell, None]] = defaultdict(dict)
    for of_program in cells.values():
        for cell in of_program.values():
            if cell is not None:
                found[cell.start, cell.is_scored or length - cell.start <= keep][cell] = None
    return {column: list(mine) for column, mine in found.items()}
