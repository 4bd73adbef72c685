"""From a program to addresses: resolving roles, layers and axes for one prompt and one model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import UsageError
from ..layout import Layout
from ..spans import TokenisedPrompt
from .programs import Program, Write


@dataclass(frozen=True)
class Cell:
    """One point of a program's grid: a token and a centre layer, None for an axis the program does not have."""

    position: int | None = None
    layer: int | None = None


ONE_CELL = Cell()
"""The only cell of a program without axes."""


@dataclass(frozen=True)
class Placed:
    """A write at one layer of one prompt."""

    write: Write
    component: str
    layer: int
    positions: tuple[int, ...]
    heads: tuple[int, ...]

    def __str__(self) -> str:
        heads = f" heads {self.heads}" if self.heads else ""
        return f"{self.component}[{self.layer}]{heads} at tokens {self.positions}"


def cells(program: Program, layout: Layout, prompt: TokenisedPrompt) -> Iterator[Cell]:
    """The cells of a program's grid, token by token and layer by layer; a single empty cell without axes."""
    positions = range(len(prompt)) if program.has_position_axis else (None,)
    layers = range(layout.n_layers) if program.window is not None else (None,)
    for position in positions:
        for layer in layers:
            yield Cell(position, layer)


def place(program: Program, layout: Layout, prompt: TokenisedPrompt, cell: Cell = ONE_CELL) -> list[Placed]:
    """All writes of one cell, in the order in which they are applied.

    Raises:
        UsageError: a role, token, layer or head that does not exist here; two absolute sources for one address.
        MechinterpError: a component this architecture cannot serve.
    """
    placed: list[Placed] = []
    taken: dict[tuple[int, str, int, int, int | None], Write] = {}
    for write in program.ordered:
        component = write.site.component
        layout.check(component.name)
        heads = component.resolve_heads(layout)
        positions = write.site.position.resolve(prompt, cell.position)
        layers = (0,) if component.name == "embed" else component.layers.resolve(layout.n_layers, cell.layer)
        for layer in layers:
            placed.append(Placed(write, component.name, layer, positions, heads))
            if not write.source.additive:
                _claim(taken, placed[-1], prompt)
    return placed


def _claim(taken: dict[tuple[int, str, int, int, int | None], Write], new: Placed, prompt: TokenisedPrompt) -> None:
    """Refuse a second absolute source for an address; resid_mid is written through the attention contribution."""
    name = "attn" if new.component == "resid_mid" else new.component
    for position in new.positions:
        for head in new.heads or (None,):
            keys = [(new.write.stage, name, new.layer, position, head)]
            if head is not None:
                keys.append((new.write.stage, name, new.layer, position, None))
            for key in keys:
                if key in taken and taken[key] != new.write:
                    raise UsageError(
                        f"two sources for one address: {taken[key]} and {new.write} both set "
                        f"{new.component}[{new.layer}] at token {position} ({prompt.tokens[position]!r}); keep one"
                    )
            taken[keys[0]] = new.write
