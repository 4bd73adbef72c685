"""A window of layers against the sum of its single layers.

Restoring ten layers at once can do more than the ten do one by one, and a window's figure then overstates
each of its layers (Zhang and Nanda 2024, section 5).  So the sum of single-layer effects is shown beside
every window.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...patching.algebra.sites import window_layers
from ...patching.traces.table import Table
from ...public import public
from .effects import SITE, role_effects

COLUMNS = [*SITE, "role", "layer", "windowed", "sum_of_singles", "inflation", "n_prompts"]


@public
def window_against_singles(table: Table, metric: str = "prob") -> pd.DataFrame:
    """Average effect of each window beside the sum of its single layers, over prompts that have both.

    Returns component, severed, window, role, layer, windowed, sum_of_singles, inflation (their ratio; NaN
    where the sum is not positive), n_prompts.  Empty where the table has no single-layer sweep of the same
    component.
    """
    sites = table.frame.loc[
        (table.frame["run"] == "patched") & (table.frame["head"] < 0), ["component", "severed", "window"]
    ].drop_duplicates()
    both = sites.groupby(["component", "severed"])["window"].agg(lambda windows: windows.min() == 1 < windows.max())
    if not both.any():  # spares the averaging of a large table
        return pd.DataFrame(columns=COLUMNS)
    effects = role_effects(table, metric)
    effects = effects[effects["head"] < 0]  # heads of different layers have nothing in common
    rows = []
    for (component, severed), part in effects.groupby(["component", "severed"], observed=True):
        singles = part[part["window"] == 1].pivot(index="prompt", columns=["role", "layer"], values="effect")
        if singles.empty:
            continue
        n_layers = int(part["layer"].max()) + 1
        wide = part[part["window"] > 1]
        for (window, role, layer), cell in wide.groupby(["window", "role", "layer"], observed=True):
            places = [(role, single) for single in window_layers(int(layer), int(window), n_layers)]
            if any(place not in singles.columns for place in places):
                continue
            summed = singles[places].sum(axis=1, skipna=False)
            pairs = pd.DataFrame({"windowed": cell.set_index("prompt")["effect"], "sum": summed}).dropna()
            windowed, total = pairs["windowed"].mean(), pairs["sum"].mean()
            ratio = windowed / total if total > 0 else np.nan
            rows.append([component, severed, int(window), role, int(layer), windowed, total, ratio, len(pairs)])
    return pd.DataFrame(rows, columns=COLUMNS)
