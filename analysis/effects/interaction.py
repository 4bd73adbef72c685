"""What a site gives back alone, what it takes away alone, and how far the two are apart.

Restoring one site in the corrupted run is its pure indirect effect; corrupting it in the clean run is its total
indirect effect.  They differ by how much the site's effect depends on the state of all other sites, the mediated
interaction, which an indirect effect alone hides (Vaidyanathan et al. 2026, arXiv 2606.27510: "the curse of multiple
mediators"; known here from summaries, so the definition is VanderWeele's 2014: total minus pure).

    restored     P(corrupted, site clean) - P(corrupted)
    removed      P(clean) - P(clean, site corrupted)
    interaction  removed - restored

All three draw by draw.  The interaction is exactly 0 where a site cannot reach the answer, and vanishes where the model
is affine in what the noise changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from ...errors import UsageError
from ...facts.prompts import Prompts
from ...given import several
from ...models.model import Model
from ...patching.algebra.programs import Program, Run, check_program, restore
from ...patching.algebra.sites import Site
from ...patching.traces.table import Table
from ...patching.traces.tracing import trace
from ...public import public
from ..intervals import bootstrap_band, bootstrap_mean
from .averages import in_reading_order
from .effects import PLACE, SITE, role_effects

KINDS = ("restored", "removed", "interaction")


@public
def trace_both_ways(
    model: Model, prompts: Prompts, corruption: Program, sites: Site | Iterable[Site], **options: Any
) -> tuple[Table, Table]:
    """Two traces of the same cells: each site restored in the corrupted run, and corrupted in the clean run.

    Args:
        model: the model.
        prompts: as for `trace`.
        corruption: without restores, such as corrupt(embed @ subject, Gaussian()).
        sites: with axes or at roles, such as attn.each @ every.
        options: of `trace`: engine, memory, progress, ...

    Raises:
        UsageError: a corruption that is none; see `trace`.
    """
    if check_program(corruption).corruption != corruption or not corruption.writes:
        raise UsageError(f"{corruption} is no corruption alone; give one such as corrupt(embed @ subject, Gaussian())")
    chosen = several(sites, Site, "sites", "sites such as attn.each @ every")
    restored = trace(model, prompts, [corruption | restore(site) for site in chosen], **options)
    removed = trace(model, prompts, [restore(site, Run(corruption)) for site in chosen], **options)
    return restored, removed


@public
def interaction_effects(
    restored: Table,
    removed: Table,
    metric: str = "prob",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Effects of restoring, of removing, and their difference, averaged over prompts, with intervals.

    Args:
        restored, removed: the tables of `trace_both_ways`.
        metric: the column whose effect is averaged.
        level: coverage of the intervals.
        resamples, seed: of the bootstrap over prompts.

    Returns:
        One row per component, role, layer, head and kind ("restored", "removed", "interaction"), with estimate; low,
        high (alone), band_low, band_high (all rows of a kind together: max-T); n_prompts.

    Raises:
        UsageError: tables of other cells.
    """
    key = [*SITE, "role", *PLACE]
    grids = [
        role_effects(table, metric).pivot(index="prompt", columns=key, values="effect") for table in (restored, removed)
    ]
    if not (grids[0].columns.equals(grids[1].columns) and grids[0].index.equals(grids[1].index)):
        raise UsageError("these tables have different prompts or cells; take both from one trace_both_ways")
    given, taken = grids[0], -grids[1]
    found = []
    for kind, grid in zip(KINDS, (given, taken, taken - given), strict=True):
        values = grid.to_numpy(float)
        alone, together = (make(values, level, resamples, seed) for make in (bootstrap_mean, bootstrap_band))
        found.append(
            grid.columns.to_frame(index=False).assign(
                kind=kind, estimate=alone.estimate, low=alone.low, high=alone.high, band_low=together.low,
                band_high=together.high, n_prompts=alone.n,
            )
        )  # fmt: skip
    return in_reading_order(pd.concat(found, ignore_index=True))
