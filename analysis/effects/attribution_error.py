"""How far estimates by gradient are from what was computed, layer by layer."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...errors import UsageError
from ...patching.traces.attribution import ESTIMATED
from ...patching.traces.table import Table
from ...public import public
from .effects import PLACE, SITE, baselines


@public
def attribution_error(table: Table, metric: str = "log_prob") -> pd.DataFrame:
    """Estimated effects against exact ones, over the cells and prompts that have both.

    Args:
        table: of `patching.attribution`.
        metric: "log_prob", "logit_diff" or "prob".

    Returns:
        One row per component and layer: cells, mean_error and max_error (absolute), ratio (the slope of exact on
        estimated effects through 0: 2 means that they are underestimated by half), correlation.  The computed cells
        are the strongest by their estimates, so cells that were underestimated are underrepresented.

    Raises:
        UsageError: no estimates in the table.
    """
    _, corrupted = baselines(table, metric)
    key = ["prompt", *SITE, "position", "role", *PLACE]
    effects = {}
    for run in (ESTIMATED, "patched"):
        rows = table.frame[table.frame["run"] == run].merge(corrupted, on=["prompt", "draw"])
        rows["effect"] = rows[metric] - rows["corrupted"]
        effects[run] = rows.groupby(key, observed=True)["effect"].mean()
    both = pd.concat(effects, axis=1, join="inner").dropna()
    if both.empty:
        raise UsageError(f"the table has no estimates of {metric!r} beside exact values; make one with attribution()")
    found = []
    for (component, layer), part in both.groupby(["component", "layer"], observed=True):
        guess, true = part[ESTIMATED].to_numpy(), part["patched"].to_numpy()
        square = float((guess**2).sum())
        spread = len(part) > 2 and guess.std() > 0 and true.std() > 0
        found.append(
            {
                "component": component, "layer": layer, "cells": len(part),
                "mean_error": float(np.abs(guess - true).mean()), "max_error": float(np.abs(guess - true).max()),
                "ratio": float((guess * true).sum() / square) if square else np.nan,
                "correlation": float(np.corrcoef(guess, true)[0, 1]) if spread else np.nan,
            }
        )  # fmt: skip
    return pd.DataFrame(found)
