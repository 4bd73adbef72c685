"""How each contender is timed, and whether it computed the same numbers."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from contenders import DRAWS, KINDS, Cell, Loop
from shapes import Task
from torch import Tensor

from mechinterp import Table
from mechinterp.patching import PublishedNoise, at, attn, causal_tracing, corrupt, embed, mlp, resid, restore, subject
from mechinterp.patching import trace as run_trace

TOLERANCE = 2e-6
"""Largest difference in a cell's probability, averaged over draws as published, that rounding in float32 explains."""

Grid = dict[tuple[str, Cell], np.ndarray]
"""(Prompt, cell) -> probability of the answer, [draw]."""


@dataclass
class Timing:
    """One contender's time for a task: in seconds, for all cells; `timed` of `cells` were run."""

    contender: str
    seconds: float = float("nan")
    cells: int = 0
    timed: int = 0
    failed: str = ""
    difference: float = float("nan")
    difference_per_draw: float = float("nan")
    grid: Grid = field(default_factory=dict, repr=False)
    meta: dict[str, object] = field(default_factory=dict, repr=False)

    def compare(self, exact: Grid) -> None:
        """Compare with the exact engine's numbers; a contender that computed something else has no time."""
        pairs = [(value, exact[key]) for key, value in self.grid.items()]
        self.difference = max(float(abs(mine.mean() - theirs.mean())) for mine, theirs in pairs)
        self.difference_per_draw = max(float(np.abs(mine - theirs).max()) for mine, theirs in pairs)
        if not self.difference <= TOLERANCE:
            self.failed = f"computes something else: a probability differs by {self.difference:.1e}"


def all_cells(task: Task) -> list[tuple[int, Cell]]:
    """Every cell of every prompt, with the prompt's index."""
    return [
        (index, Cell(kind, position, layer))
        for index, asked in enumerate(task.asked)
        for kind in KINDS
        for position in range(len(asked.ids))
        for layer in range(task.model.n_layers)
    ]


def now(task: Task) -> float:
    """Seconds, once the device has done what it was given."""
    if task.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def time_trace(task: Task, name: str, *, engine: str, repeats: int) -> Timing:
    """`mechinterp.trace` over all cells: sources, columns, scores, the cells run twice, the table."""
    programs = causal_tracing(PublishedNoise(task.level, DRAWS), task.size.window, severed=())
    prompts = [asked.prompt for asked in task.asked]
    run_trace(task.model, prompts[:1], programs[:1], engine=engine, progress=False)  # warms up
    found = Timing(name, float("inf"), len(all_cells(task)), len(all_cells(task)))
    for _ in range(repeats):
        start = now(task)
        table = run_trace(task.model, prompts, programs, engine=engine, progress=False)
        found.seconds = min(found.seconds, now(task) - start)
    found.grid, found.meta = grid_of(table), table.meta
    return found


def time_plain_sample(task: Task, name: str, *, repeats: int, seed: int) -> Timing:
    """The plain executor at one token of one prompt, scaled by the rows of its forwards, which all cost the same."""
    asked = task.asked[0]
    position = random.Random(seed).randrange(len(asked.ids))
    base = corrupt(embed @ subject, PublishedNoise(task.level, DRAWS))
    window = task.size.window
    sites = [resid.each @ at(position), mlp.window(window) @ at(position), attn.window(window) @ at(position)]
    programs = [base | restore(site) for site in sites]
    start = now(task)
    task.model.fingerprint()  # part of every trace, once
    fixed = now(task) - start
    cells = all_cells(task)
    timed = len(sites) * task.model.n_layers
    baseline = 1 + DRAWS
    run_trace(task.model, [asked.prompt], programs[:1], engine="plain", progress=False)  # warms up
    found = Timing(name, float("inf"), len(cells), timed)
    for _ in range(repeats):
        start = now(task)
        table = run_trace(task.model, [asked.prompt], programs, engine="plain", progress=False)
        rows = now(task) - start - fixed
        whole = len(cells) * DRAWS + len(task.asked) * baseline
        found.seconds = min(found.seconds, fixed + rows * whole / (timed * DRAWS + baseline))
    found.grid = grid_of(table, position)
    return found


def grid_of(table: Table, position: int | None = None) -> Grid:
    """The patched probabilities of a trace; `position` is where all of it stood, for a trace without that axis."""
    frame = table.frame[table.frame["run"] == "patched"]
    return {
        (str(prompt), Cell(str(kind), int(where) if position is None else position, int(layer))): part.to_numpy()
        for (prompt, kind, where, layer), part in frame.groupby(["prompt", "component", "position", "layer"])["prob"]
    }


def time_loop(task: Task, name: str, kind: type[Loop], *, share: float, repeats: int, seed: int) -> Timing:
    """A contender with one forward per cell, on a seeded sample of the cells."""
    cells = all_cells(task)
    some = sorted(random.Random(seed).sample(cells, max(1, round(share * len(cells)))))
    found = Timing(name, float("inf"), len(cells), len(some))
    with torch.no_grad():
        loop = kind(task)
        loop.start(task.asked[some[0][0]])
        loop.cell(some[0][1])  # warms up
        for _ in range(repeats):
            per_prompt, per_cell, values = _once(task, loop, some)
            found.seconds = min(found.seconds, per_prompt * len(task.asked) + per_cell * len(cells))
    found.grid = {
        (task.asked[index].prompt.name, cell): value.double().cpu().numpy()
        for (index, cell), value in zip(some, values, strict=True)
    }
    return found


def _once(task: Task, loop: Loop, some: Sequence[tuple[int, Cell]]) -> tuple[float, float, list[Tensor]]:
    """Seconds per prompt (its clean run) and per cell, and the cells' probabilities."""
    starting = running = 0.0
    values: list[Tensor] = []
    prompts = sorted({index for index, _ in some})
    for prompt in prompts:
        before = now(task)
        loop.start(task.asked[prompt])
        between = now(task)
        values += [loop.cell(cell) for index, cell in some if index == prompt]
        running += now(task) - between
        starting += between - before
    return starting / len(prompts), running / len(some), values
