"""From a program to addresses: resolving roles, layers and axes for one prompt and one model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import UsageError
from ...facts.spans import TokenisedPrompt
from ...models.layout import ATTN, EMBED, RESID, RESID_MID, RESID_PRE, Layout
from ...models.stacks import ENCODER
from .programs import Program, Write


@dataclass(frozen=True)
class Cell:
    """One point of a program's grid: token, centre layer and head, None for an axis the program does not have."""

    position: int | None = None
    layer: int | None = None
    head: int | None = None

    def __str__(self) -> str:
        places = {"token": self.position, "layer": self.layer, "head": self.head}
        return ", ".join(f"{name} {place}" for name, place in places.items() if place is not None) or "its only cell"


Taken = dict[tuple[int, str, int, int], dict[int | None, Write]]
"""Who writes an address (stage, component, layer, token), head by head; None stands for all heads."""

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
    """The cells of a program's grid, token by token, layer by layer, head by head; an empty one without axes.

    Raises:
        UsageError: components with different numbers of heads on one axis.
    """
    positions = range(len(prompt.patched)) if program.has_position_axis else (None,)
    layers = (None,) if program.layer_axis is None else program.layer_axis.axis(layout.n_layers)
    heads = _head_axis(program, layout)
    for position in positions:
        for layer in layers:
            for head in heads:
                yield Cell(position, layer, head)


def _head_axis(program: Program, layout: Layout) -> tuple[int | None, ...]:
    axes = {component: component.axis_of_heads(layout) for component in program.head_axes}
    if len(set(axes.values())) > 1:
        shown = ", ".join(f"{component} {len(heads)}" for component, heads in axes.items())
        raise UsageError(f"one program has one axis of heads, and these have different ones: {shown}; trace them apart")
    return next(iter(axes.values()), (None,))


def place(program: Program, layout: Layout, prompt: TokenisedPrompt, cell: Cell = ONE_CELL) -> list[Placed]:
    """All writes of one cell, in the order in which they are applied.

    Raises:
        UsageError: a role, token, layer or head that does not exist here; two absolute sources for one address.
        MechinterpError: a component this architecture cannot serve.
    """
    placed: list[Placed] = []
    taken: Taken = {}
    for write in program.ordered:
        component = write.site.component
        layout.check(component.name)
        heads = component.resolve_heads(layout, cell.head)
        tokens = tokens_of(component.name, prompt)
        positions = write.site.position.resolve(tokens, cell.position)
        layers = (0,) if component.name == EMBED else component.layers.resolve(layout.n_layers, cell.layer)
        for layer in layers:
            name, at_layer = component.name, layer
            if name == RESID_PRE and layer > 0:  # what enters a layer is what left the one before: one address
                name, at_layer = RESID, layer - 1
            elif name == RESID_PRE and layout.stack == ENCODER:  # likewise what enters an encoder is the embedding
                name = EMBED
            placed.append(Placed(write, name, at_layer, positions, heads))
            if not write.source.additive:
                _claim(taken, placed[-1], tokens)
    return placed


def tokens_of(component: str, prompt: TokenisedPrompt) -> TokenisedPrompt:
    """The tokens at which a component is read and written: the embedding is always the prompt's."""
    return prompt if component == EMBED else prompt.patched


def _claim(taken: Taken, new: Placed, prompt: TokenisedPrompt) -> None:
    """Refuse a second absolute source for an address; resid_mid is written through the attention contribution.

    All heads at once (None) collide with any head that is written by itself.
    """
    name = ATTN if new.component == RESID_MID else new.component
    for position in new.positions:
        address = new.write.stage, name, new.layer, position
        others = taken.setdefault(address, {})
        for head in new.heads or (None,):
            for written, other in others.items():
                if other != new.write and (head is None or written is None or head == written):
                    raise UsageError(
                        f"two sources for one address: {other} and {new.write} both set "
                        f"{new.component}[{new.layer}] at token {position} ({prompt.tokens[position]!r}); keep one"
                    )
            others[head] = new.write
