"""Heads: one map of layers and heads for each component and role."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ...errors import UsageError
from ...patching.traces.table import Table
from ...public import public
from ..effects.averages import average_indirect_effects
from .style import METRIC_NAMES, footnote, new_figure, provenance

COLUMNS = 3
"""Panels in a row at most."""


@public
def plot_heads(table: Table, metric: str = "prob") -> Figure:
    """Average indirect effects of single heads, layers from below, on one scale around zero.

    Args:
        table: of a trace over `each_head`.
        metric: the column whose effect is averaged over prompts.

    Raises:
        UsageError: the table has no single heads.
    """
    effects = average_indirect_effects(table, metric, resamples=2)
    effects = effects[effects["head"] >= 0]
    if effects.empty:
        raise UsageError("the table has no single heads; trace a site such as z.each_head @ last, or use plot_aie")
    panels = list(effects.groupby(["component", "severed", "role"], sort=False, observed=True))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    sizes = effects["head"].nunique(), effects["layer"].nunique()
    figure = new_figure(1.3 + columns * (1.2 + 0.16 * sizes[0]), 1.3 + rows * (0.8 + 0.16 * sizes[1]))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    limit = float(effects["estimate"].abs().max()) or 1.0
    for axes, ((component, severed, role), part) in zip(grid, panels, strict=False):
        image = _panel(axes, part, limit)
        cut = "" if severed == "none" else f", {severed} severed"
        axes.set_title(f"{component} at {role}{cut}", fontsize=9)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    bar = figure.colorbar(image, ax=list(grid), aspect=25, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.set_label(f"AIE: {METRIC_NAMES.get(metric, metric)}", fontsize=8)
    figure.suptitle(
        f"Single heads restored\n{provenance({**table.meta, 'window': None}, len(table.prompts))}", fontsize=9
    )
    footnote(figure, table.meta)
    return figure


def _panel(axes: Axes, part: pd.DataFrame, limit: float) -> AxesImage:
    grid = part.pivot(index="layer", columns="head", values="estimate")
    image = axes.imshow(grid.to_numpy(float), cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", aspect="auto")
    for numbers, put in ((grid.columns, axes.set_xticks), (grid.index, axes.set_yticks)):
        step = max(1, -(-len(numbers) // 12))
        put(range(0, len(numbers), step), [str(one) for one in numbers[::step]], fontsize=8)
    axes.set_xlabel("head", fontsize=8)
    axes.set_ylabel("layer", fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image
