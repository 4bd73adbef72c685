"""What a trace costs, before it runs and in the same terms after it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Price:
    """Sums, except for what is held at one time, of which the largest counts.

    Args:
        prompts: how many.
        cells: in the table.
        no_op_cells: cells that equal the corrupted run or another cell, and are not computed.
        rows: of the table, the clean and corrupted ones not counted.
        forwards: of the model.
        token_layers: rows x tokens x layers of everything that is run: the clean, corrupted and other source runs, the
            cells, and those that are checked.
        plain_token_layers: those of them that are full forwards of programs the exact engine does not run.
        naive_token_layers: of one full forward per cell and draw.
        kept: bytes of activations kept of one group's runs.
        peak: bytes of one forward where it is widest.
    """

    prompts: int = 0
    cells: int = 0
    no_op_cells: int = 0
    rows: int = 0
    forwards: int = 0
    token_layers: int = 0
    plain_token_layers: int = 0
    naive_token_layers: int = 0
    kept: int = 0
    peak: int = 0

    def __add__(self, other: Price) -> Price:
        return Price(
            prompts=self.prompts + other.prompts,
            cells=self.cells + other.cells,
            no_op_cells=self.no_op_cells + other.no_op_cells,
            rows=self.rows + other.rows,
            forwards=self.forwards + other.forwards,
            token_layers=self.token_layers + other.token_layers,
            plain_token_layers=self.plain_token_layers + other.plain_token_layers,
            naive_token_layers=self.naive_token_layers + other.naive_token_layers,
            kept=max(self.kept, other.kept),
            peak=max(self.peak, other.peak),
        )

    @property
    def bytes(self) -> int:
        """Held at one time beside the model and the table."""
        return self.kept + self.peak

    def __str__(self) -> str:
        share = self.token_layers / max(1, self.naive_token_layers)
        prompts = "1 prompt" if self.prompts == 1 else f"{self.prompts:,} prompts"
        return (
            f"{prompts}, {self.cells:,} cells ({self.no_op_cells:,} of them need no computing), {self.rows:,} rows; "
            f"{self.forwards:,} forwards, {self.token_layers:,} token-layers, {share:.0%} of the "
            f"{self.naive_token_layers:,} of one forward per cell and draw; about {self.bytes / 1e6:,.0f} MB at once "
            "beside the model and the table"
        )
