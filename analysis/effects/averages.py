"""Average indirect effects by token role, layer and head, and their paired differences, each with its interval.

First within a prompt over the positions of a role, then across prompts (see `role_effects`).  Prompts without
a role (a subject of two tokens has no middle one) are left out of that role alone, and the table says how
many and why.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from ...errors import UsageError
from ...facts.spans import ROLES
from ...patching.traces.table import Table
from ...public import public
from ..intervals import bootstrap_band, bootstrap_mean
from .effects import PLACE, SITE, role_effects, total_effects

CLUSTERS = ("prompt", "relation")


@public
def average_total_effect(
    table: Table,
    metric: str = "prob",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    cluster: str = "prompt",
) -> pd.DataFrame:
    """The average over prompts of the clean metric, the corrupted metric and the total effect.

    Returns a frame with rows clean, corrupted, total_effect and columns estimate, low, high, n_prompts,
    n_given.
    """
    totals = total_effects(table, metric)
    names = ["clean", "corrupted", "total_effect"]
    usable = totals[totals[names].notna().all(axis=1)]
    found = bootstrap_mean(
        usable[names].to_numpy(float), level, resamples, seed, _labels(usable["prompt"], totals, cluster)
    )
    frame = pd.DataFrame({"estimate": found.estimate, "low": found.low, "high": found.high}, index=names)
    return frame.assign(n_prompts=len(usable), n_given=len(totals))


@public
def average_indirect_effects(
    table: Table,
    metric: str = "prob",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    cluster: str = "prompt",
) -> pd.DataFrame:
    """The average indirect effect (AIE) of every site, by token role, layer and head.

    Args:
        table: the long table of a trace.
        metric: the column whose effect is averaged.
        level: coverage of the intervals.
        resamples, seed: of the bootstrap over prompts.
        cluster: "prompt", or "relation" to resample whole relations (prompts of one relation are alike).

    Returns:
        One row per component, severed, window, role, layer, head, with estimate; low, high (each interval alone);
        band_low, band_high (all rows together: max-T); n_prompts of n_given; reason (why prompts are left
        out).
    """
    effects = role_effects(table, metric)
    if effects.empty:
        raise UsageError("the table holds no restored runs, so no indirect effect; trace a restored site first")
    totals = total_effects(table, metric)
    grid = effects.pivot(index="prompt", columns=[*SITE, "role", *PLACE], values="effect")
    frame = _estimates(grid, totals, level, resamples, seed, cluster)
    frame["reason"] = _reasons(effects, frame, len(totals))
    return in_reading_order(frame)


@public
def difference_of_effects(
    table: Table,
    first: Mapping[str, Hashable],
    second: Mapping[str, Hashable],
    metric: str = "prob",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    cluster: str = "prompt",
) -> pd.DataFrame:
    """AIE of `first` minus AIE of `second` at the same role, layer and head, paired within each prompt.

    A site is chosen by `component`, and by `severed` ("none" unless given) and `window` where the table has
    several:

        difference_of_effects(table, {"component": "mlp"}, {"component": "attn"})
        difference_of_effects(table, {"component": "resid"}, {"component": "resid", "severed": "mlp"})

    the second of which is how much severing the MLPs takes away.  Returns role, layer, head, estimate, low, high,
    band_low, band_high, n_prompts, n_given, reason, with the two sites named in columns first and second.
    """
    effects = role_effects(table, metric)
    totals = total_effects(table, metric)
    grids = [_select(effects, choice).pivot(index="prompt", columns=["role", *PLACE], values="effect")
             for choice in (first, second)]  # fmt: skip
    shared = grids[0].columns.intersection(grids[1].columns)
    if shared.empty:
        raise UsageError(f"{dict(first)} and {dict(second)} share no role, layer and head, so nothing can be compared")
    difference = grids[0][shared] - grids[1][shared]
    frame = _estimates(difference, totals, level, resamples, seed, cluster)
    frame["reason"] = _reasons(effects, frame, len(totals))
    frame.insert(0, "first", _describe(first))
    frame.insert(1, "second", _describe(second))
    return in_reading_order(frame)


def in_reading_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows sorted by site, then role as it is read in a sentence, then layer and head."""
    rank = {role: i for i, role in enumerate(ROLES)}
    keys = [name for name in ("first", "second", *SITE) if name in frame.columns]
    ordered = frame.assign(_role=frame["role"].map(lambda role: rank.get(role, len(rank))))
    return ordered.sort_values([*keys, "_role", *PLACE]).drop(columns="_role").reset_index(drop=True)


def _estimates(
    grid: pd.DataFrame, totals: pd.DataFrame, level: float, resamples: int, seed: int, cluster: str
) -> pd.DataFrame:
    """Intervals of the columns of a prompt × cell grid, as a tidy frame with the cells' names in columns."""
    values = grid.to_numpy(float)
    labels = _labels(grid.index, totals, cluster)
    alone = bootstrap_mean(values, level, resamples, seed, labels)
    together = bootstrap_band(values, level, resamples, seed, labels)
    return grid.columns.to_frame(index=False).assign(
        estimate=alone.estimate,
        low=alone.low,
        high=alone.high,
        band_low=together.low,
        band_high=together.high,
        n_prompts=alone.n,
        n_given=len(totals),
    )


def _labels(prompts: Any, totals: pd.DataFrame, cluster: str) -> list[object] | None:
    if cluster not in CLUSTERS:
        raise UsageError(f"cluster={cluster!r} is not a column to resample by; choose {' or '.join(CLUSTERS)}")
    if cluster == "prompt":
        return None
    relation = totals.set_index("prompt")["relation"]
    if (relation == "").any():
        unnamed = relation.index[relation == ""][0]
        raise UsageError(f"the prompt {unnamed!r} has no relation; give every prompt one, or use cluster='prompt'")
    return list(relation[list(prompts)])


def _reasons(effects: pd.DataFrame, cells: pd.DataFrame, given: int) -> list[str]:
    """Why fewer prompts than given stand behind each cell, in words."""
    with_role = effects.groupby("role", observed=True)["prompt"].nunique()
    valued = effects[effects["effect"].notna()].groupby("role", observed=True)["prompt"].nunique()
    reasons = []
    for role, n in zip(cells["role"], cells["n_prompts"], strict=True):
        parts = []
        if without := given - int(with_role.get(role, 0)):
            parts.append(f"{without} without a {role} token")
        if valueless := int(with_role.get(role, 0)) - int(valued.get(role, 0)):
            parts.append(f"{valueless} without a value of the metric")
        if untraced := int(valued.get(role, 0)) - int(n):
            parts.append(f"{untraced} not traced at this site")
        reasons.append(f"of {given}: " + ", ".join(parts) if parts else "")
    return reasons


def _select(effects: pd.DataFrame, choice: Mapping[str, Hashable]) -> pd.DataFrame:
    if not isinstance(choice, Mapping):
        raise UsageError(f'{choice!r} chooses no site; write {{"component": "mlp"}}')
    unknown = set(choice) - set(SITE)
    if unknown:
        raise UsageError(f"a site is chosen by {', '.join(SITE)}; {sorted(unknown)[0]!r} is none of them")
    chosen = effects
    for name, value in {"severed": "none", **choice}.items():
        present = chosen[name].unique()
        chosen = chosen[chosen[name] == value]
        if chosen.empty:
            raise UsageError(f"no {name} {value!r} in the table; it has {', '.join(map(repr, map(str, present)))}")
    for name in SITE:
        values = chosen[name].unique()
        if len(values) > 1:
            raise UsageError(f"{dict(choice)} leaves {name} open ({', '.join(map(str, values))}); name one")
    return chosen


def _describe(choice: Mapping[str, Hashable]) -> str:
    site = {"severed": "none", **choice}
    cut = "" if site["severed"] == "none" else f", {site['severed']} severed"
    window = f", window {site['window']}" if "window" in site else ""
    return f"{site.get('component', 'site')}{window}{cut}"
