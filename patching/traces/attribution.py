"""Attribution patching as a filter: estimates for all cells from one gradient, exact values for those that matter.

Nanda 2023: to first order, putting a value in place changes a metric by (new value - old value) . gradient, taken
in the corrupted run.  One forward and two backward passes give all cells, of every layer, token and head; how far
they are off is not known until some are computed, so the strongest always are, and stand beside them in the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Unpack

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Prompts
from ...forwards.readout import log_softmax
from ...given import whole
from ...models.layout import EMBED
from ...models.model import Model
from ...public import public
from ..algebra.cells import Cell, Placed, cells, place
from ..algebra.programs import Program, nothing
from ..exact.column_jobs import column_jobs
from ..exact.grid import Counts, Grid
from ..exact.group import GroupPlan
from ..plain.executor import HookWrite, forward
from ..plain.metrics import METRICS, Question, Scores, score
from ..plain.running import make_questions
from ..plain.session import run_read_by
from .labels import Label, label
from .options import TraceOptions
from .planning import Plan, plan
from .rows import cell_columns, frame_of, restored_names
from .table import Table

ESTIMATED = "estimated"
"""The run of a row that no forward has computed."""

_Address = tuple[str, int]
_Place = tuple[str, Label]


@public
def attribution(
    model: Model,
    prompts: Prompts,
    programs: Program | Iterable[Program],
    *,
    exact: int = 20,
    **options: Unpack[TraceOptions],
) -> Table:
    """Estimate all cells of some programs, and compute the strongest.

    Args:
        model: the model.
        prompts: as for `trace`.
        programs: as for `trace`; what they restore must be read from runs (clean, corrupted, `Run`).
        exact: how many places (role, layer, head of a component) are computed as well: those with the largest mean
            estimates of the answer's log-probability, of either sign.
        options: of `trace`: foil, seed, memory.

    Returns:
        The table of a trace, with rows of the run "estimated" for all cells (prob, log_prob and logit_diff; the others
        are missing) and "patched" for those computed; `analysis.attribution_error` compares them.

    Raises:
        UsageError: a program that the exact engine does not serve, or that restores what no run has; see `trace`.
    """
    count = whole(exact, "exact", least=1)
    options.setdefault("engine", "exact")
    made = plan(model, prompts, programs, **options)
    _check(made)
    estimates = [_Estimates(made, group) for group in made.groups]
    chosen = _strongest(estimates, count)
    frames: dict[int, pd.DataFrame] = {}
    counts = Counts()
    for one in estimates:
        for index, frame in one.frames(chosen, counts):
            frames[index] = frame
    meta = {**made.meta, **asdict(counts), "estimated_cells": made.price.cells, "gradient": "corrupted run"}
    return Table(pd.concat([frames[index] for index in sorted(frames)], ignore_index=True), meta)


def _check(made: Plan) -> None:
    for program, reason in made.plain.items():
        raise UsageError(f"{program} cannot be estimated: {reason}")
    for program in made.programs:
        for write in program.ordered:
            if write.stage > 0 and run_read_by(write.source, program) is None:
                raise UsageError(f"{write} cannot be estimated: its value is that of no run; use trace()")


class _Estimates:
    """A group's estimates: by how much each cell changes each metric, [draws]."""

    def __init__(self, made: Plan, group: GroupPlan) -> None:
        self.group, self.session = group, group.session()
        self.questions = make_questions(self.session, group.programs, made.metrics)
        session, layout = self.session, self.session.model.layout
        self.corruption = group.programs[0].corruption
        self.draws = max(program.draws or 1 for program in group.programs)
        self.placed: list[dict[tuple[Program, Cell], list[Placed]]] = []
        for asked in session.asked:
            self.placed.append(
                {
                    (program, cell): [one for one in place(program, layout, asked.prompt, cell) if one.write.stage > 0]
                    for program in group.programs
                    for cell in cells(program, layout, asked.prompt)
                }
            )
        writes = [one for of_prompt in self.placed for some in of_prompt.values() for one in some]
        self.addresses: list[_Address] = list(dict.fromkeys((one.component, one.layer) for one in writes))
        for program in {self.corruption, *(run for part in group.exact for one in part.splits for run in one.runs)}:
            session.run(program, self.addresses)
        self.corrupted = [
            score(logits.expand(self.draws, -1, -1) if len(logits) == 1 else logits, question)
            for logits, question in zip(session.run(self.corruption), self.questions, strict=True)
        ]
        self.changes = [self._changes(index) for index in range(len(session.asked))]

    def _changes(self, index: int) -> dict[tuple[Program, Cell], dict[str, np.ndarray]]:
        """Of one prompt: (new value - old value) . gradient, summed over what a cell writes."""
        gradients = self._gradients(index)
        session = self.session
        found: dict[tuple[Program, Cell], dict[str, np.ndarray]] = {}
        for (program, cell), placed in self.placed[index].items():
            total = {metric: np.zeros(self.draws) for metric in gradients}
            for one in placed:
                address, at, heads = (one.component, one.layer), list(one.positions), list(one.heads)
                source = run_read_by(one.write.source, program)
                assert source is not None
                new = session.activation(source, index, address)[:, at]
                change = new - session.activation(self.corruption, index, address)[:, at]
                for metric, by_address in gradients.items():
                    product = change * by_address[address][:, at]
                    product = product[:, :, heads] if heads else product
                    total[metric] = total[metric] + product.double().flatten(1).sum(1).cpu().numpy()
            found[program, cell] = total
        return found

    def _gradients(self, index: int) -> dict[str, dict[_Address, Tensor]]:
        """Of the log-probability and the logit difference, at every token of the addresses, in the corrupted run."""
        session, model = self.session, self.session.model
        asked, layout = session.asked[index], model.layout
        writes = place(self.corruption, layout, asked.prompt)
        rows = self.corruption.draws or 1
        hooks = []
        for one in writes:
            values = session.values(index, one, self.corruption)
            values = values.expand(rows, *values.shape[1:]).flatten(0, 1)
            row, at = _grid(rows, one.positions, model.device)
            hooks.append(HookWrite(layout.hook(EMBED), row, at, values, add=one.write.source.additive))
        nudges: dict[_Address, Tensor] = {}
        for address in self.addresses:
            shape = session.activation(self.corruption, index, address).shape
            row, at = _grid(rows, range(shape[1]), model.device)
            # Nothing is added; the gradient of what could be is that of the activation.
            nudges[address] = torch.zeros(len(row), *shape[2:], dtype=model.dtype, device=model.device).requires_grad_()
            hooks.append(HookWrite(layout.hook(*address), row, at, nudges[address], add=True))
        ids = torch.tensor([asked.ids]).expand(rows, -1)
        keep = len(asked.answer)
        logits = forward(model, ids, hooks, keep=keep, grad=True).logits
        found: dict[str, dict[_Address, Tensor]] = {}
        for metric, value in _metrics(logits, self.questions[index]).items():
            given = torch.autograd.grad(value.sum(), list(nudges.values()), retain_graph=True, allow_unused=True)
            found[metric] = {
                address: (torch.zeros_like(nudge) if gradient is None else gradient).unflatten(0, (rows, -1))
                for (address, nudge), gradient in zip(nudges.items(), given, strict=True)
            }
        return found

    def places(self) -> Iterator[tuple[_Place, float]]:
        """Each cell's component and label without its token, and its mean estimate."""
        for index, changes in enumerate(self.changes):
            for (program, cell), change in changes.items():
                yield self.place(index, program, cell), float(change["log_prob"].mean())

    def place(self, index: int, program: Program, cell: Cell) -> _Place:
        """What the same cells of several prompts share."""
        asked = self.session.asked[index]
        found = label(program, self.session.model.layout, asked).at(cell, asked)
        return f"{restored_names(program)} {program.window}", replace(found, position=-1, token="")

    def frames(self, chosen: set[_Place], counts: Counts) -> Iterator[tuple[int, pd.DataFrame]]:
        """The rows of each prompt, with those cells computed that are chosen."""
        patched = self._computed(chosen, counts)
        for index, asked in enumerate(self.session.asked):
            clean = score(self.session.logits[nothing][index], self.questions[index])
            base = self.corrupted[index]
            foil = self.session.model.decode(self.questions[index].foil)
            parts = [cell_columns(asked, foil, "clean", clean), cell_columns(asked, foil, "corrupted", base)]
            for (program, cell), change in self.changes[index].items():
                at = label(program, self.session.model.layout, asked).at(cell, asked)
                parts.append(cell_columns(asked, foil, ESTIMATED, _estimated(base, change), program, at))
                if (index, program, cell) in patched:
                    parts.append(cell_columns(asked, foil, "patched", patched[index, program, cell], program, at))
            yield self.group.indices[index], frame_of(parts)

    def _computed(self, chosen: set[_Place], counts: Counts) -> dict[tuple[int, Program, Cell], Scores]:
        parts = []
        for part in self.group.exact:
            some = tuple(
                {
                    one: {cell: cc for cell, cc in of.items() if self.place(index, one.program, cell) in chosen}
                    for one, of in of_prompt.items()
                }
                for index, of_prompt in enumerate(part.cells)
            )
            jobs = tuple(column_jobs(some, self.session.asked, part.draws, self.group.budget))
            parts.append(replace(part, cells=some, jobs=jobs, checks={}))
        grid = Grid(self.session, replace(self.group, exact=tuple(parts)), self.questions)
        found = {(one.prompt, one.program, one.cell): one.scores for one in grid.run()}
        counts.add(grid.counts)
        return found


def _grid(rows: int, positions: Iterable[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and position of each value, row by row."""
    at = torch.tensor(list(positions), device=device)
    return torch.arange(rows, device=device).repeat_interleave(len(at)), at.repeat(rows)


def _metrics(logits: Tensor, question: Question) -> dict[str, Tensor]:
    """What is differentiated, [rows]; as `plain.metrics.score` has it."""
    answer = torch.tensor(question.answer, device=logits.device)
    chosen = log_softmax(logits).gather(-1, answer.expand(len(logits), -1)[..., None])
    step = question.step
    difference = logits[:, step, question.answer[step]] - logits[:, step, question.foil[step]]
    return {"log_prob": chosen.sum((1, 2)), "logit_diff": difference}


def _estimated(base: Scores, change: dict[str, np.ndarray]) -> Scores:
    """The corrupted scores, moved; a probability by its share of the log-probability's change."""
    moved = {metric: getattr(base, metric) + by for metric, by in change.items()}
    moved["prob"] = base.prob * (1 + change["log_prob"])
    missing = np.full_like(base.prob, np.nan)
    prob, log_prob, logit_diff, rank, kl = (moved.get(metric, missing) for metric in METRICS)
    return Scores(prob, log_prob, logit_diff, rank, kl, dict.fromkeys(base.own, missing))


def _strongest(estimates: Iterable[_Estimates], count: int) -> set[_Place]:
    found: dict[_Place, list[float]] = {}
    for one in estimates:
        for place_, value in one.places():
            found.setdefault(place_, []).append(value)
    means = {key: abs(float(np.mean(values))) for key, values in found.items()}
    return set(sorted(means, key=lambda key: -means[key])[:count])
