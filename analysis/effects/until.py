"""As many prompts as an interval needs: traced in growing lots, until the effects are known well enough.

After each lot the intervals are looked at, and looking often finds a narrow one by chance.  The error is therefore
spent (Lan and DeMets 1983): the j-th look uses alpha / 2^j, shared out evenly among the cells (Bonferroni), so that all
intervals of all looks hold together with the stated level, as far as Student's t holds for a mean of prompts (of
exponentially distributed effects with a first look at 64 it misses 7 % instead of 5 %: look later where a few prompts
have most of the effect).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ...errors import UsageError
from ...facts.prompts import Prompts, prompts_of
from ...given import Names, names_of, number, whole
from ...models.model import Model
from ...patching.algebra.programs import Program
from ...patching.traces.table import Table
from ...patching.traces.tracing import trace
from ...public import public
from .effects import PLACE, SITE, role_effects

CELL = [*SITE, "role", *PLACE]


# More than eight parameters: those of a trace, and those of a rule for when it is enough.
@public
def trace_until(
    model: Model,
    prompts: Prompts,
    programs: Program | Iterable[Program] | None = None,
    *,
    points: float = 1.0,
    roles: Names | None = None,
    metric: str = "prob",
    level: float = 0.95,
    first: int = 64,
    seed: int = 0,
    out: str | Path | None = None,
    **options: Any,
) -> Table:
    """Trace prompts, in an order drawn at random, until every interval is narrow enough or there are no more.

    Args:
        model, programs: as for `trace`.
        prompts: all that there are; those not needed are not run.
        points: half the width of an interval that is enough, in hundredths of the metric: percentage points of
            probability.
        roles: only the cells at these token roles are asked for; None: all cells.
        metric: the column whose effect is averaged.
        level: of the intervals, all looks and cells together.
        first: prompts before the first look; each look doubles them.
        seed: of the order.
        out: a folder, in which each lot has a run directory: a run that was stopped goes on there.
        options: of `trace`.

    Returns:
        The table of the prompts that were run, in the order given; `meta["until"]` says what was asked for, the looks
        (prompts, widest half interval in points) and how many prompts were saved.

    Raises:
        UsageError: points or first out of range, no such role; see `trace`.
    """
    wanted = number(points, "points")
    if not wanted > 0 or not 0 < number(level, "level") < 1:
        raise UsageError(f"points is {points} and level {level}; give points above 0 and a level between 0 and 1")
    given = list(prompts_of(prompts))
    size, asked_roles = whole(first, "first", least=2), None if roles is None else names_of(roles, "roles")
    order = np.random.default_rng(seed).permutation(len(given))
    tables: list[Table] = []
    looks: list[dict[str, Any]] = []
    done = 0
    while done < len(given):
        stop = min(len(given), size * 2 ** len(tables))
        lot = [given[index] for index in order[done:stop]]
        folder = None if out is None else Path(out) / f"lot-{len(tables)}"
        tables.append(trace(model, lot, programs, out=folder, **options))
        done = stop
        together = _merged(tables)
        share = (1 - level) / 2 ** len(tables)
        widest = 100 * _widest(together, metric, asked_roles, share)
        looks.append({"prompts": done, "widest": widest})
        if widest <= wanted:
            break
    places = {prompt.name: place for place, prompt in enumerate(given)}
    frame = together.frame.sort_values("prompt", key=lambda names: names.map(places), kind="stable", ignore_index=True)
    until = {
        "points": wanted, "metric": metric, "level": level,
        "rule": "alpha / 2^look, Bonferroni over cells, Student's t",
        "looks": looks, "reached": looks[-1]["widest"] <= wanted, "prompts_given": len(given), "prompts_run": done,
        "factor_saved": len(given) / done,
    }  # fmt: skip
    return Table(frame, {**together.meta, "until": until})


def _merged(tables: list[Table]) -> Table:
    meta = dict(tables[-1].meta)
    for name in ("cells", "no_op_cells", "checked_cells", "token_layers", "naive_token_layers", "prompts"):
        meta[name] = sum(table.meta[name] for table in tables)
    meta["largest_difference"] = max(table.meta["largest_difference"] for table in tables)
    meta["warnings"] = [sentence for table in tables for sentence in table.meta["warnings"]]
    meta["scored"] = {name: text for table in tables for name, text in table.meta["scored"].items()}
    return Table(pd.concat([table.frame for table in tables], ignore_index=True), meta)


def _widest(table: Table, metric: str, roles: tuple[str, ...] | None, share: float) -> float:
    """Half the width of the widest interval; infinite where a cell has a single prompt."""
    effects = role_effects(table, metric)
    if roles is not None:
        present = set(effects["role"])
        for role in roles:
            if role not in present:
                raise UsageError(f"no cell has the role {role!r}; the trace has {', '.join(sorted(present))}")
        effects = effects[effects["role"].isin(roles)]
    cells = effects.groupby(CELL, observed=True)["effect"].agg(["std", "count"])
    count = cells["count"].to_numpy()
    if (count < 2).any():
        return float("inf")
    quantile = stats.t.ppf(1 - share / (2 * len(cells)), count - 1)
    return float((quantile * cells["std"].to_numpy() / np.sqrt(count)).max())
