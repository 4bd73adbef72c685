"""The strongest sites of a trace, in a short table."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ...given import whole
from ...patching.traces.table import Table
from ...public import public
from .averages import average_indirect_effects


@public
def top(table: Table, n: int = 10, metric: str = "prob", **options: Any) -> pd.DataFrame:
    """The sites with the largest average indirect effects, of either sign, the largest first.

    Args:
        table: the long table of a trace.
        n: how many.
        metric: the column whose effect is averaged.
        options: of `average_indirect_effects`: level, resamples, seed, cluster.

    Returns:
        Its rows; the intervals of all cells together (band_low, band_high) are those to read, because the cells were
        chosen by their size.

    Raises:
        UsageError: as there; n below 1.
    """
    count = whole(n, "n", least=1)
    found = average_indirect_effects(table, metric, **options)
    order = found["estimate"].abs().sort_values(ascending=False, kind="stable").index
    return found.loc[order[:count]].reset_index(drop=True)
