"""Where a cell is, as the table says it: token, role, layer and head of what is restored."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...models.layout import EMBED, Layout
from ..algebra.cells import Cell, tokens_of
from ..algebra.programs import ABLATE, RESTORE, Program, Write
from ..plain.asked import Asked

NOWHERE = -1
"""In the place of a token, layer or head: none, or several at once."""


@dataclass(frozen=True)
class Label:
    """A place; `position` and `role` are those of a single token, or the role alone of several at once."""

    position: int = NOWHERE
    token: str = ""
    role: str = ""
    layer: int = NOWHERE
    head: int = NOWHERE

    def at(self, cell: Cell, asked: Asked) -> Label:
        """The place of a cell, from that of its program."""
        if cell.position is not None:
            self = _of_token(self, asked, cell.position)
        layer = self.layer if cell.layer is None else cell.layer
        return replace(self, layer=layer, head=self.head if cell.head is None else cell.head)


NO_PLACE = Label()
"""Of clean and corrupted rows."""


def label(program: Program, layout: Layout, asked: Asked) -> Label:
    """What is the same for all cells of a program: what it names without an axis.

    Where it restores nothing, it is what else it writes beside the corruption.
    """
    writes = [write for write in program.ordered if write.stage > 0]
    restored = [write for write in writes if write.verb in (RESTORE, ABLATE)] or writes
    layers = {layer for write in restored for layer in _layers(write, layout)}
    heads = {head for write in restored for head in _heads(write, layout)}
    found = Label(layer=layers.pop() if len(layers) == 1 else NOWHERE, head=heads.pop() if len(heads) == 1 else NOWHERE)
    if any(write.site.position.follows_axis for write in restored):
        return found
    tokens = {
        token
        for write in restored
        for token in write.site.position.resolve(tokens_of(write.site.component.name, asked.prompt))
    }
    if len(tokens) == 1:
        return _of_token(found, asked, tokens.pop())
    return replace(found, role="+".join(dict.fromkeys(str(write.site.position) for write in restored)))


def _of_token(found: Label, asked: Asked, position: int) -> Label:
    tokenised = asked.prompt.patched
    return replace(found, position=position, token=tokenised.tokens[position], role=tokenised.role(position))


def _layers(write: Write, layout: Layout) -> tuple[int, ...]:
    """The layers written at once; none of an axis."""
    component = write.site.component
    if component.layers.window is not None or component.name == EMBED:
        return ()
    return component.layers.resolve(layout.n_layers)


def _heads(write: Write, layout: Layout) -> tuple[int, ...]:
    """The heads written at once; none of an axis, and none where all are written."""
    return () if write.site.component.head_axis else write.site.component.resolve_heads(layout)
