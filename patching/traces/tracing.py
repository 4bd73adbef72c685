"""Causal tracing: a grid of programs over many prompts, as one long table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from ...errors import MechinterpError, NotSavedError, StorageError, UsageError
from ...facts.prompts import Prompts
from ...forwards.unembedding import whole
from ...models.model import Model
from ...public import public
from ...runs.folder import OutFolder
from ...runs.progress import progress_bar
from ...runs.ranks import Ranks, ranks
from ..algebra.cells import Cell, cells
from ..algebra.programs import Program, nothing
from ..exact.grid import Counts, Grid
from ..exact.group import GroupPlan
from ..plain.metrics import Scores, score
from ..plain.precision import resolution
from ..plain.running import make_questions
from .labels import label
from .options import TraceOptions
from .planning import Plan, plan
from .rows import cell_columns, frame_of
from .run_directory import TABLE, RunDirectory
from .table import COLUMNS, Table


class Interrupted(MechinterpError):
    """A trace was interrupted; `table` holds the prompts that were finished."""

    def __init__(self, message: str, table: Table) -> None:
        super().__init__(message)
        self.table = table


@public
def trace(
    model: Model,
    prompts: Prompts,
    programs: Program | Iterable[Program] | None = None,
    *,
    out: str | Path | None = None,
    progress: bool = True,
    **options: Unpack[TraceOptions],
) -> Table:
    """Trace where a model keeps what it says about some subjects.

    Without `programs` this is causal tracing (see `causal_tracing`): positions x layers x {residual, MLP window,
    attention window}, and the residual with MLP or attention severed.  Noise is fresh per prompt and shared by all
    cells of the prompt; severing happens within one draw.

    Args:
        model: the model.
        prompts: what to trace, one or several, or facts; a prompt without an answer is scored by the model's own next
            token.
        programs: one program or several, with axes (`every`, `.window()`, `.each_head`) or at a role; they share the
            corrupted baseline of the first.
        out: a run directory (see `run_directory`): finished prompts are kept there as they come, a killed or
            interrupted run goes on when it is asked for again, and the table ends in its `table.parquet`.  Under
            torchrun the ranks share the prompts, and all return the whole table.
        progress: show a bar.
        options: of causal tracing, where no programs are given (`CausalTracing`): kinds, severed, window, sigmas,
            noise_level, draws; and of any trace (`Tracing`): seed, reference, foil, metric, engine,
            memory.

    Returns:
        The long table; see `patching.table`.

    Raises:
        UsageError: bad prompts (all are looked at before anything runs), unknown kinds, options of causal tracing
            beside programs, a run directory of another run.
        MechinterpError: the exact engine and the plain executor differ; not even one row fits into the memory.
        Interrupted: Ctrl-C; the finished prompts are in its `table`, and in `out`.
    """
    made = plan(model, prompts, programs, **options)
    return run_plan(made, out=out, progress=progress)


@public
def run_plan(made: Plan, *, out: str | Path | None = None, progress: bool = True) -> Table:
    """Run what `plan` has planned; see `trace`."""
    with ranks(made.model.device.type) as me:
        if out is not None and Path(out).suffix == ".parquet":
            raise UsageError(
                f"out is the folder of a run, not a file; give a folder, or table.save({str(out)!r}) afterwards"
            )
        if out is not None:
            folder = OutFolder(out)
            with folder.locked() if me.is_first else nullcontext():
                return _in_directory(made, folder, me, progress and me.is_first)
        if me.world > 1:
            raise UsageError("several processes trace into one run directory; give out= (--out)")
        return _in_memory(made, progress)


def _in_memory(made: Plan, progress: bool) -> Table:
    frames: dict[int, pd.DataFrame] = {}
    counts = Counts()
    try:
        with progress_bar("tracing prompts", len(made.asked), shown=progress) as advance:
            for group in made.groups:
                new, did = _trace_group(made, group)
                frames.update(zip(group.indices, new, strict=True))
                counts.add(did)
                advance(len(group.indices))
    except KeyboardInterrupt:
        message = f"interrupted after {len(frames)} of {len(made.asked)} prompts"
        raise Interrupted(message, _table(frames, {**made.meta, **asdict(counts), "interrupted": True})) from None
    return _table(frames, {**made.meta, **asdict(counts)})


def _in_directory(made: Plan, out: OutFolder, me: Ranks, progress: bool) -> Table:
    if me.is_first:
        RunDirectory.open(out, made)
    me.barrier()  # the manifest is there
    directory = RunDirectory.open(out, made)
    made = made.regrouped(directory.groups)
    missing = directory.missing(told=me.is_first)
    me.barrier()  # everybody has seen the same parts missing
    mine = [missing[index] for index in me.share(len(missing))]
    with progress_bar("tracing prompts", len(made.asked), shown=progress) as advance:
        advance(len(made.asked) - sum(len(made.groups[number].indices) for number in mine))
        with _kept_in(directory, made):
            for number in mine:
                frames, did = _trace_group(made, made.groups[number])
                directory.write(number, frames, asdict(did))
                advance(len(frames))
    me.barrier()  # all parts are there
    if me.is_first:
        table = _merged(directory, range(len(directory.groups)), made.meta)
        try:
            table.save(out / TABLE)
        except StorageError as error:
            kept = f"the table is still in memory (`result` of this error) and its parts are in {out}"
            raise NotSavedError(f"{error}; {kept}: start the same run again to write it", table) from error
        directory.clear_parts()
    me.barrier()  # the table is there
    return table if me.is_first else Table.load(out / TABLE)


@contextmanager
def _kept_in(directory: RunDirectory, made: Plan) -> Iterator[None]:
    """Say of what stops a run what is kept of it, and that it can go on."""
    try:
        yield
    except (KeyboardInterrupt, MechinterpError, RuntimeError) as error:
        left = set(directory.missing())
        done = [number for number in range(len(directory.groups)) if number not in left]
        kept = sum(len(directory.groups[number]) for number in done)
        where = f"{kept} of {len(made.asked)} prompts are kept in {directory.path}; start the same run again to go on"
        if isinstance(error, KeyboardInterrupt):
            table = _merged(directory, done, {**made.meta, "interrupted": True})
            raise Interrupted(f"interrupted: {where}", table) from None
        raise MechinterpError(f"{error}; {where}") from error


def _merged(directory: RunDirectory, numbers: Iterable[int], meta: dict[str, Any]) -> Table:
    """The finished parts as one table."""
    frames: dict[int, pd.DataFrame] = {}
    counts = Counts()
    for number in numbers:
        new, did = directory.read(number)
        frames.update(zip(directory.groups[number], new, strict=True))
        counts.add(Counts(**did))
    return _table(frames, {**meta, **asdict(counts)})


def _trace_group(made: Plan, group: GroupPlan) -> tuple[list[pd.DataFrame], Counts]:
    """The frames of the prompts of one group."""
    session = group.session()
    questions = make_questions(session, group.programs, made.metrics)
    # A run without noise is the same in every draw of what is written into it: each draw has its baseline.
    draws = max(program.draws or 1 for program in group.programs)
    corrupted = [
        logits.expand(draws, -1, -1) if len(logits) == 1 else logits
        for logits in session.run(group.programs[0].corruption)
    ]
    grid = Grid(session, group, questions)
    patched: list[dict[tuple[Program, Cell], Scores]] = [{} for _ in session.asked]
    for one in grid.run():
        patched[one.prompt][one.program, one.cell] = one.scores
    frames = []
    for index, asked in enumerate(session.asked):
        clean = score(session.logits[nothing][index], questions[index])
        foil = made.model.decode(questions[index].foil)
        parts = [
            cell_columns(asked, foil, "clean", clean),
            cell_columns(asked, foil, "corrupted", score(corrupted[index], questions[index])),
        ]
        for program in group.programs:
            place = label(program, session.model.layout, asked)
            for cell in cells(program, session.model.layout, asked.prompt):
                kind, scores = "ablated" if program.ablates else "patched", patched[index][program, cell]
                parts.append(cell_columns(asked, foil, kind, scores, program, place.at(cell, asked)))
        frames.append(frame_of(parts))
        logits = whole(session.logits[nothing][index])
        grid.counts.resolution = max(grid.counts.resolution, resolution(logits, made.model.dtype))
    return frames, grid.counts


def _table(frames: dict[int, pd.DataFrame], meta: dict[str, Any]) -> Table:
    """All prompts in the order in which they were given."""
    ordered = [frames[index] for index in sorted(frames)]
    frame = pd.concat(ordered, ignore_index=True) if ordered else pd.DataFrame(columns=list(COLUMNS))
    return Table(frame, meta)
