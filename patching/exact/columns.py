"""Which programs the exact engine can split, and how late each cell can join a forward.

A column is the cells that start at one token.  A cell joins the forward of its column as late as it can: restoring the
residual stream or an MLP contribution of layer l changes nothing before layer l + 1 reads it; what attention does is
changed within layer l, so such a cell joins one layer earlier.  Before its first changed token, and before the layer it
joins at, a cell is the corrupted run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...facts.spans import TokenisedPrompt
from ...models.layout import ATTN, KEY, MLP, RESID, RESID_PRE, VALUE, K, Layout, Q, V, Z
from ..algebra.cells import Cell, Placed, cells, place
from ..algebra.programs import ADD, CORRUPT, Program, Write
from ..plain.asked import Asked
from ..plain.session import run_read_by

Address = tuple[str, int]
"""Component and layer."""

AFTER = (RESID, MLP)
"""Components whose change the next layer is the first to see; it is put into the stream that enters it."""
WITHIN = (ATTN, Z, Q, K, V, KEY, VALUE)
"""Components that are written while their layer runs."""
SERVED = (RESID_PRE, *AFTER, *WITHIN)


@dataclass(frozen=True, eq=False)
class Split:
    """A program that can be split: noise in the embeddings, then values put in place at later sites.

    Args:
        program: the program.
        sources: what each restore or sever reads: a program's run, or None for a value that no run gives.
    """

    program: Program
    sources: Mapping[Write, Program | None]

    @property
    def runs(self) -> set[Program]:
        """The runs that its cells start from or read."""
        return {self.program.corruption, *(run for run in self.sources.values() if run is not None)}


@dataclass(frozen=True, eq=False)
class ColumnCell:
    """One cell of a column; cells that write the same at the same places are one.

    Args:
        split: its program.
        start: the first token that it changes.
        joins: the layer whose input it joins at; the number of layers for "after the last one".
        writes: what it writes from there on.
        is_scored: whether the last layer is changed at a token whose logits are scored.
    """

    split: Split
    start: int
    joins: int
    writes: tuple[Placed, ...]
    is_scored: bool


PromptCells = Mapping[Cell, ColumnCell | None]
"""The cells of one program on one prompt; None for those that cannot differ from the corrupted run."""


def split(program: Program) -> Split | str:
    """The program in the engine's terms, or the reason why it needs the plain executor."""
    sources: dict[Write, Program | None] = {}
    for write in program.ordered:
        name = write.site.component.name
        if write.verb == CORRUPT:
            if name != "embed":
                return "it corrupts something else than the embeddings"
            continue
        if write.verb == ADD:
            return f"{write} adds to what is there"
        if name not in SERVED:
            return f"{write} is at none of {', '.join(SERVED)}"
        sources[write] = run_read_by(write.source, program)
    return Split(program, sources)


def first_touched(runs: Iterable[Program], layout: Layout, prompt: TokenisedPrompt) -> dict[Program, int]:
    """The first token at which each run can differ from the clean one; the prompt's length where none can."""
    return {
        run: min((at for write in place(run, layout, prompt) for at in write.positions), default=len(prompt))
        for run in runs
    }


class Cells:
    """The cells of some prompts of one length; prompts with the same tokens touched share them.

    Args:
        layout: of the model.
        length: tokens of each prompt, those of the answer fed to it included.
        keep: last positions that are scored.
    """

    def __init__(self, layout: Layout, length: int, keep: int) -> None:
        self.layout, self.n_layers = layout, layout.n_layers
        self.length, self.keep = length, keep
        self._known: dict[tuple[object, ...], PromptCells] = {}

    def of(self, one: Split, asked: Asked) -> PromptCells:
        """All cells of one program on one prompt."""
        prompt = asked.prompt
        touched = first_touched(one.runs, self.layout, prompt)
        fixed = tuple(
            write.site.position.resolve(prompt) for write in one.sources if not write.site.position.follows_axis
        )
        key = (one, *touched.values(), *fixed)
        if key not in self._known:
            self._known[key] = self._made(one, prompt, touched)
        return self._known[key]

    def _made(self, one: Split, prompt: TokenisedPrompt, touched: Mapping[Program, int]) -> PromptCells:
        found: dict[tuple[object, ...], ColumnCell | None] = {}
        cell_of: dict[Cell, ColumnCell | None] = {}
        for cell in cells(one.program, self.layout, prompt):
            placed = [write for write in place(one.program, self.layout, prompt, cell) if write.write in one.sources]
            key = tuple((id(w.write), w.component, w.layer, w.positions, w.heads) for w in placed)
            if key not in found:
                found[key] = self._column_cell(one, placed, touched)
            cell_of[cell] = found[key]
        return cell_of

    def _column_cell(self, one: Split, placed: Sequence[Placed], touched: Mapping[Program, int]) -> ColumnCell | None:
        """Where a cell starts and joins; None where nothing that it writes can reach the scored logits."""
        own = one.program.corruption
        heard = [write for write in placed if self._is_heard(write)]
        starts: dict[Placed, tuple[int, int]] = {}  # first token and layer changed by the writes that change something
        for write in heard:
            source = one.sources[write.write]
            first = 0 if source is None else min(touched[source], touched[own])
            at = [position for position in write.positions if position >= first]
            if at and source != own:  # what the own corrupted run holds is there until something else is changed
                starts[write] = min(at), write.layer + (write.component in AFTER)
        if not starts:
            return None
        start, joins = (min(each) for each in zip(*starts.values(), strict=True))
        kept = []
        for write in heard:
            at = [position for position in write.positions if position >= start]
            # What is already there is written again once something is changed before it: in a later layer, or, of the
            # stream that leaves a layer, by the MLP of that layer.
            if at and (write in starts or write.layer + (write.component == RESID) >= joins):
                kept.append(write if len(at) == len(write.positions) else replace(write, positions=tuple(at)))
        scored = any(w.layer == self.n_layers - 1 and max(w.positions) >= self.length - self.keep for w in kept)
        return ColumnCell(one, start, joins, tuple(kept), scored)

    def _is_heard(self, write: Placed) -> bool:
        """In the last layer a token that is not scored is heard through its keys and values alone."""
        return (
            write.layer < self.n_layers - 1
            or write.component in (K, V)
            or max(write.positions) >= self.length - self.keep
        )


def reads_of(splits: Sequence[Split], n_layers: int) -> dict[Program, list[Address]]:
    """What the engine reads of each run."""
    found: dict[Program, dict[Address, None]] = {}

    def read(program: Program, name: str, layers: Iterable[int]) -> None:
        found.setdefault(program, {}).update(dict.fromkeys((name, layer) for layer in layers))

    for one in splits:
        own = one.program.corruption
        read(own, RESID, range(n_layers))
        read(own, RESID_PRE, [0])
        for write, source in one.sources.items():
            component = write.site.component
            axis = component.layers.window is not None
            layers = range(n_layers) if axis else component.layers.resolve(n_layers)
            if component.name == MLP:  # its share of the stream is exchanged
                read(own, MLP, layers)
            if source is None:
                continue
            if component.name != RESID_PRE:
                read(source, component.name, layers)
                continue
            read(source, RESID, [layer - 1 for layer in layers if layer > 0])
            if 0 in layers:
                read(source, RESID_PRE, [0])
    return {program: list(addresses) for program, addresses in found.items()}
