"""How long a plan will take here, from a few of its forwards."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from ...models.model import Model
from ..algebra.cells import cells, place
from ..algebra.programs import Program
from ..exact.budget import Budget
from ..exact.grid import Grid
from ..exact.group import GroupPlan, plan_group
from ..plain.running import make_questions

_TOKENS = 512
"""Tokens per forward while calibrating: about as fast per token as larger ones, and soon over."""

_TOGETHER = 4
"""Forwards that share the last layer, as many do in earnest."""


def measured_seconds(model: Model, groups: Sequence[GroupPlan], budget: Budget, limit: float) -> float:
    """Seconds that some groups will take.

    Some forwards of one prompt of the middle group are run, made small and chosen at random, until the time is over;
    the seconds per token-layer that they show are applied to the whole.

    Args:
        model: the model.
        groups: of the plan.
        budget: of the plan.
        limit: seconds to spend on each of the two executors, exceeded by one forward at most.
    """
    group = sorted(groups, key=lambda one: one.length)[len(groups) // 2]
    refused = next(iter(group.plain.values()), None) if not group.exact else None
    small = replace(budget, tokens=_TOKENS)
    alone = plan_group(model, group.indices[:1], group.asked[:1], group.programs, small, refused=refused, checked=0)
    session = alone.session()
    grid = Grid(session, alone, make_questions(session))
    in_full = sum(one.price.plain_token_layers for one in groups)
    split = sum(one.price.token_layers for one in groups) - in_full
    seconds = 0.0
    for token_layers, forwards in ((split, _columns(grid)), (in_full, _full_forwards(grid))):
        started, before = time.perf_counter(), session.work.token_layers
        for forward in forwards:
            forward()
            if time.perf_counter() - started > limit:
                break
        done = session.work.token_layers - before
        seconds += token_layers * (time.perf_counter() - started) / done if done else 0.0
    return seconds


def _columns(grid: Grid) -> Iterator[Callable[[], object]]:
    """Forwards of the exact engine in random order; none where there is no such program."""
    generator = random.Random(0)
    for part in grid.plan.exact:
        grid.run_sources(part)
        jobs = generator.sample(part.jobs, len(part.jobs))
        for start in range(0, len(jobs), _TOGETHER):
            yield partial(_exhaust, grid.columns, part, jobs[start : start + _TOGETHER])


def _full_forwards(grid: Grid) -> Iterator[Callable[[], object]]:
    layout, asked = grid.session.model.layout, grid.session.asked[0].prompt

    def run(program: Program) -> None:
        for cell in list(cells(program, layout, asked))[:8]:
            _exhaust(grid.forward, 0, program, [(cell, place(program, layout, asked, cell))])

    for program in grid.plan.plain:
        run(program)  # once in vain: what it reads from is run with it
        yield partial(run, program)


def _exhaust(function: Callable[..., Iterator[object]], *arguments: object) -> None:
    for _ in function(*arguments):
        pass
