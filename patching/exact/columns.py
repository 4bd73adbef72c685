"""Which programs the exact engine can split, and the cells of one column of their grid.

A column is all layers of one token.  A cell joins the forward of its column as late as it can: restoring the residual
stream or an MLP contribution of layer l changes nothing before layer l + 1 reads it; restoring what attention adds
changes the MLP of the same layer, so such a cell joins one layer earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...models.layout import MLP, RESID, RESID_PRE
from ..algebra.programs import CORRUPT, RESTORE, SEVER, Program, Run, Write, nothing
from ..algebra.sites import Layers, window_layers
from ..algebra.sources import Clean, Corrupted


@dataclass(frozen=True)
class Split:
    """A program that can be split: what it restores, in how many layers, and what it severs.

    Args:
        program: the program.
        component: "resid", "mlp" or "attn".
        window: layers restored at once.
        restored_from: the program whose run the restored values come from.
        severed: for each severed component the program whose run it is held at.
    """

    program: Program
    component: str
    window: int
    restored_from: Program
    severed: tuple[tuple[str, Program], ...]

    @property
    def runs(self) -> set[Program]:
        """The runs that its cells start from or read."""
        return {self.program.corruption, self.restored_from, *(source for _, source in self.severed)}

    @property
    def severs_elsewhere(self) -> bool:
        """Whether something is held at another run than the cell's own corrupted one (another draw, as published).

        What is severed to the own corrupted run is already there before anything is restored, and so changes nothing
        in the earlier layers; what is held at another run does.
        """
        return any(source != self.program.corruption for _, source in self.severed)

    def joins(self, first: int) -> int:
        """The layer at whose input a cell restoring from layer `first` on must join."""
        if self.severs_elsewhere:
            return 0
        return first if self.component == "attn" else first + 1


@dataclass(frozen=True)
class ColumnCell:
    """One cell of a column.

    Args:
        split: its program.
        layer: its place on the layer axis.
        first, stop: layers restored, stop excluded.
        joins: the layer whose input it joins at; the number of layers for "after the last one".
    """

    split: Split
    layer: int
    first: int
    stop: int
    joins: int


def split(program: Program) -> Split | str:
    """The program in the engine's terms, or the reason why it needs the plain executor."""
    restores = [write for write in program.ordered if write.verb == RESTORE]
    severs = [write for write in program.ordered if write.verb == SEVER]
    corrupts = [write for write in program.ordered if write.verb == CORRUPT]
    if len(restores) != 1 or len(restores) + len(severs) + len(corrupts) != len(program.writes):
        return "it does not restore exactly one site"
    if any(write.site.component.name != "embed" for write in corrupts):
        return "it corrupts something else than the embeddings"
    site = restores[0].site
    name, width = site.component.name, site.window
    if name not in ("resid", "mlp", "attn") or width is None or not site.position.is_axis:
        return f"it does not restore resid, mlp or attn over both axes ({site})"
    if name == "resid" and width != 1:
        return "it restores windows of the residual stream"
    if program.draws != program.corruption.draws:
        return "what it writes has draws of its own, which the corruption has not"
    source = _source(restores[0], program)
    if source is None:
        return f"the source of {restores[0]} is no run"
    held: list[tuple[str, Program]] = []
    for write in severs:
        place = write.site
        if place.component.name not in ("mlp", "attn") or place.component.layers != Layers():
            return f"{write} does not sever mlp or attn in all layers"
        held_at = _source(write, program)
        if str(place.position) != "here" or held_at is None:
            return f"{write} does not sever at the restored token"
        held.append((place.component.name, held_at))
    if name in dict(held):
        return f"it restores and severs {name} at the same token"
    return Split(program, name, width, source, tuple(held))


def _source(write: Write, program: Program) -> Program | None:
    """The run a write reads from, if it is one without axes."""
    if isinstance(write.source, Clean):
        return nothing
    if isinstance(write.source, Corrupted):
        return program.corruption
    if isinstance(write.source, Run) and not write.source.program.has_axes:
        return write.source.program
    return None


def column(splits: list[Split], n_layers: int, *, is_scored: bool) -> list[ColumnCell]:
    """The cells of one token that can change the logits, without those that equal another cell.

    Args:
        splits: programs that share one corruption.
        n_layers: of the model.
        is_scored: whether the token's own final residual reaches the logits; if not, a change after the last layer
            has nowhere to go.
    """
    found: dict[tuple[Split, int, int], ColumnCell] = {}
    for one in splits:
        for layer in range(n_layers):
            layers = window_layers(layer, one.window, n_layers)
            first, stop = layers[0], layers[-1] + 1
            joins = one.joins(first)
            idle = first == n_layers - 1 and not is_scored and not one.severs_elsewhere
            if not idle and (one, first, stop) not in found:
                found[one, first, stop] = ColumnCell(one, layer, first, stop, joins)
    return sorted(found.values(), key=lambda cell: cell.joins)


def reads_of(splits: Sequence[Split], n_layers: int) -> dict[Program, list[tuple[str, int]]]:
    """What the engine reads of each run, as (component, layer)."""
    found: dict[Program, dict[tuple[str, int], None]] = {}

    def read(program: Program, *names: str) -> None:
        addresses = ((name, layer) for name in names for layer in range(n_layers))
        found.setdefault(program, {}).update(dict.fromkeys(addresses))

    for one in splits:
        read(one.restored_from, one.component)
        read(one.program.corruption, RESID, *([MLP] if one.component == MLP else []))
        found[one.program.corruption][RESID_PRE, 0] = None
        for name, source in one.severed:
            read(source, name)
    return {program: list(addresses) for program, addresses in found.items()}


def same_cell(one: Split, layer: int, n_layers: int) -> tuple[Split, int, int]:
    """What a cell restores: windows clipped to the same layers are one cell."""
    layers = window_layers(layer, one.window, n_layers)
    return one, layers[0], layers[-1] + 1
