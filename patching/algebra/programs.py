"""Programs: what to write where, as a value.

A `Program` is a set of writes; `|` is set union.  It is frozen, hashable and printable, and says nothing about a model
or a prompt until it is run.  Writes happen in stages, whatever the order of `|`: corruptions first (absolute, then
noise), then restores and severs, then learned deltas.  Two absolute sources for one address within a stage are an
error.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

from ...errors import UsageError
from ...facts.prompts import Fact, Prompt
from ...models.layout import PATTERN
from ...models.model import Model
from .acting import act
from .documented import documented
from .own import AnySource, source_of
from .sites import Component, Layers, Site
from .sources import Clean, Corrupted, Source

CORRUPT = "corrupt"
RESTORE = "restore"
SEVER = "sever"
ABLATE = "ablate"
ADD = "add"


@dataclass(frozen=True)
class Write:
    """One write: a verb, a site and the source of the value."""

    verb: str
    site: Site
    source: Source

    def __post_init__(self) -> None:
        if self.site.component.name == PATTERN:
            raise UsageError(
                "attention patterns are read and not written: on some architectures TransformerLens throws away what "
                "is written to them; write z, q, k, v or attn"
            )

    @property
    def stage(self) -> int:
        """Order of application: corruptions 0, restores, severs and ablations 1, learned deltas 2."""
        return {CORRUPT: 0, RESTORE: 1, SEVER: 1, ABLATE: 1, ADD: 2}[self.verb]

    def __str__(self) -> str:
        default = {RESTORE: Clean(), SEVER: Corrupted()}.get(self.verb)
        source = "" if self.source == default else f", {self.source}"
        return f"{self.verb}({self.site}{source})"


@dataclass(frozen=True)
class Program:
    """A set of writes."""

    writes: frozenset[Write] = frozenset()

    def __post_init__(self) -> None:
        seen: dict[tuple[int, Site], Write] = {}
        for write in self.ordered:
            if write.source.additive:
                continue
            other = seen.setdefault((write.stage, write.site), write)
            if other != write:
                raise UsageError(f"two sources for one site: {other} and {write}; keep one of them")
        self._check_axes()
        if self.ablates and self.corruption != Program():
            raise UsageError(
                f"ablate() takes something out of the clean run, and this program corrupts it: {self}; write "
                "restore(site, Zero()) for the same in the corrupted run"
            )
        self._check_draws()

    def _check_axes(self) -> None:
        widths = {write.site.window for write in self.writes if write.site.window is not None}
        if len(widths) > 1:
            raise UsageError(f"one program has one layer axis; this one has windows of {sorted(widths)} layers")
        places = {write.site.component.layers for write in self.writes if write.site.window is not None}
        if len(places) > 1:
            shown = " and ".join(sorted(map(str, places)))
            raise UsageError(f"one program has one layer axis; this one has {shown}")

    def __or__(self, other: Program) -> Program:
        return Program(self.writes | check_program(other).writes)

    @cached_property
    def ordered(self) -> tuple[Write, ...]:
        """The writes in a fixed order: by stage, absolute before additive, then by their text."""
        return tuple(sorted(self.writes, key=lambda write: (write.stage, write.source.additive, str(write))))

    def __str__(self) -> str:
        return " | ".join(str(write) for write in self.ordered) or "nothing"

    @cached_property
    def ablates(self) -> bool:
        """Whether something is taken out of the clean run, which its effects are then compared with."""
        return any(write.verb == ABLATE for write in self.writes)

    @cached_property
    def corruption(self) -> Program:
        """Only the corruptions."""
        return Program(frozenset(write for write in self.writes if write.verb == CORRUPT))

    def _check_draws(self) -> None:
        counts = {write.source.draws for write in self.writes} - {None}
        if len(counts) > 1:
            raise UsageError(f"the sources of one program have different numbers of draws: {sorted(map(str, counts))}")

    @cached_property
    def draws(self) -> int | None:
        """Number of random draws, None for a deterministic program."""
        return max((write.source.draws for write in self.writes if write.source.draws is not None), default=None)

    @property
    def has_axes(self) -> bool:
        """Whether the program stands for a grid of cells rather than one."""
        return any(write.site.has_axis for write in self.writes)

    @cached_property
    def window(self) -> int | None:
        """Width of the layer axis."""
        return None if self.layer_axis is None else self.layer_axis.window

    @cached_property
    def layer_axis(self) -> Layers | None:
        """The layer axis: how wide, around which layers."""
        return next((write.site.component.layers for write in self.ordered if write.site.window is not None), None)

    @cached_property
    def head_axes(self) -> tuple[Component, ...]:
        """The components with an axis over heads, which is one and the same."""
        return tuple(dict.fromkeys(w.site.component for w in self.ordered if w.site.component.head_axis))

    @property
    def has_position_axis(self) -> bool:
        """Whether the program has one cell per token."""
        return any(write.site.position.is_axis for write in self.writes)


    def on(self, model: Model, prompt: Prompt | Fact | None = None) -> AbstractContextManager[Model]:
        """Let the program act on every forward of the model for the length of a block, the weights untouched.

        What it writes at `everywhere` goes to every token, those of a text that is being written too; other positions
        are those of the prompt.

        Args:
            model: the model (a decoder); inside the block every caller meets the program.
            prompt: with which all texts of the block begin, for positions by role and for values that come from runs
                of it or from other sentences.  None: any text; tokens are then `everywhere`, `everywhere[3:]` or at(3).

        Raises:
            UsageError: axes or draws; a prompt is needed and not there; within the block, another text.
        """
        return act(self, model, prompt)


@dataclass(frozen=True)
class Run(Source):
    """Another program's run on the same prompt: path patching is a restore from a run that was itself severed."""

    program: Program

    def __post_init__(self) -> None:
        if not hasattr(self.program, "has_axes"):
            raise UsageError(f"Run takes a program, not {self.program!r:.60}")
        if self.program.has_axes:
            raise UsageError(f"a run to read from is one cell, and this program has axes: {self.program}")

    @property
    def draws(self) -> int | None:
        return self.program.draws

    def __str__(self) -> str:
        return f"run of ({self.program})"


def check_program(program: object) -> Program:
    """What must be a program.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(program, Program):
        raise UsageError(
            f"{program!r:.80} is no program; write one such as corrupt(embed @ subject, Gaussian()) | "
            "restore(mlp[3] @ subject[-1])"
        )
    return program


nothing = documented(Program(), "The empty program: the clean run.")


def corrupt(site: Site, source: AnySource) -> Program:
    """Damage a site: noise added, or its value replaced.

    Raises:
        UsageError: a site with an axis, or the corrupted run as source of what makes it; something that is no site or
            no source.
    """
    found = _source(CORRUPT, site, source)
    if site.has_axis or site.position.follows_axis:
        raise UsageError(
            f"all cells of a grid share one corruption, and {site} has an axis; name its tokens and layers, or write "
            f"cell by cell with restore({site}, {found})"
        )
    if isinstance(found, Corrupted):
        raise UsageError(f"corrupt({site}, ...) makes the corrupted run and cannot read from it; give another source")
    return Program(frozenset({Write(CORRUPT, site, found)}))


def restore(site: Site, source: AnySource | None = None) -> Program:
    """Put a site back to its value in the clean run, or in another run given as `Run(program)`.

    Raises:
        UsageError: a source that only adds; something that is no site or no source.
    """
    found = _source(RESTORE, site, Clean() if source is None else source)
    return Program(frozenset({Write(RESTORE, site, _absolute(RESTORE, found))}))


def sever(site: Site, source: AnySource | None = None) -> Program:
    """Hold a site at its value in the corrupted run, as if nothing had been restored: cut the path through it.

    Raises:
        UsageError: a source that only adds; something that is no site or no source.
    """
    found = _source(SEVER, site, Corrupted() if source is None else source)
    return Program(frozenset({Write(SEVER, site, _absolute(SEVER, found))}))


def ablate(site: Site, source: AnySource) -> Program:
    """Take out of the clean run what a site has to say: put `Zero()`, a `Mean` or a `Resample` in its place.

    The clean run is what the effects are compared with: ablated minus clean.

    Raises:
        UsageError: a source that only adds, or that puts back what is there; something that is no site or no source.
    """
    found = _absolute(ABLATE, _source(ABLATE, site, source))
    if isinstance(found, (Clean, Corrupted)):
        raise UsageError(
            f"ablate({site}, ...) with the {found} leaves what is there; give Zero(), Mean(texts) or Resample(texts)"
        )
    return Program(frozenset({Write(ABLATE, site, found)}))


def _absolute(verb: str, source: Source) -> Source:
    if source.additive:
        raise UsageError(f"{verb}() puts a value in place and {source} only adds to it; use corrupt() or add()")
    return source


def add(site: Site, source: AnySource) -> Program:
    """Add a vector at a site, after everything else: a learned one, or a direction to steer along.

    Raises:
        UsageError: a source that replaces; something that is no site or no source.
    """
    found = _source(ADD, site, source)
    if not found.additive:
        raise UsageError(f"add() takes an additive source such as Delta; {found} replaces the value, use restore()")
    return Program(frozenset({Write(ADD, site, found)}))


def _source(verb: str, site: object, source: object) -> Source:
    """The source of a write; what it cannot consist of is refused, and what has a source of its own is named."""
    if isinstance(site, Component):
        raise UsageError(f"{site} names no tokens; write {verb}({site} @ subject[-1])")
    if not isinstance(site, Site):
        raise UsageError(f"{site!r:.80} is no site; write {verb}(mlp[3] @ subject[-1])")
    if isinstance(source, Program):
        raise UsageError(f"a program is no source; write {verb}({site}, Run(program)) to take the value from its run")
    return source_of(source, f"{verb}({site}")
