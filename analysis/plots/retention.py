"""Retention of a sequence of edits: success by age, the matrix of facts and steps, perplexity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from ...public import public
from ..evaluation.retention import ENDS, Retention
from .edits import COLOURS, DASHES
from .style import footnote, interval_note, new_figure, provenance, sequential

NAMES = {
    "ES": "new object likelier (ES)",
    "ES_acc": "new object is the answer (ES_acc)",
    "PS": "in other words (PS)",
    "NS": "other subjects (NS)",
}


@public
def plot_retention(
    found: Retention, metric: str = "ES_acc", *, level: float = 0.95, meta: Mapping[str, Any] | None = None
) -> Figure:
    """A `Retention` as a figure.

    Args:
        found: of `retention`.
        metric: of the matrix.
        level: of the intervals.
        meta: what the title says: {"model": ..., "method": ...}.

    Raises:
        UsageError: the metric was not measured.
    """
    matrix = found.matrix(metric)
    known = dict(meta or {})
    curve = found.curve(level=level)
    panels = 2 + (not found.perplexity.empty)
    figure = new_figure(4.2 * panels, 3.9)
    axes = figure.subplots(1, panels)
    _curve(axes[0], found, curve)
    _matrix(axes[1], matrix.to_numpy(float), list(matrix.index), list(matrix.columns), metric)
    if panels > 2:
        axes[2].plot(found.perplexity["edits"], found.perplexity["perplexity"], color="#000000", marker="o", ms=3)
        values = found.perplexity["perplexity"]
        if values.max() > 10 * values.min():
            axes[2].set_yscale("log")
        axes[2].set_title("perplexity of held texts", fontsize=10)
        axes[2].set_xlabel("facts edited", fontsize=9)
        axes[2].spines[["top", "right"]].set_visible(False)
    facts = found.before["record"].nunique()
    name = provenance({"model": known.get("model")})
    figure.suptitle(
        f"{name}{'  ·  ' if name else ''}{known.get('method', 'edits')} in sequence, {facts} facts\n"
        f"{interval_note('shaded', curve, level, facts, 'fact')}  ·  dotted: the unedited model",
        fontsize=10,
    )
    footnote(figure, known)
    return figure


def _curve(axes: Axes, found: Retention, curve: pd.DataFrame) -> None:
    before = found.before.groupby("metric")["value"].mean()
    for metric, line in curve.groupby("metric", sort=False):
        colour, dashes = COLOURS.get(str(metric), "#555555"), DASHES.get(str(metric), "-")
        x = line["later"].to_numpy(float)
        axes.plot(x, line["estimate"].to_numpy(float), color=colour, ls=dashes, marker="o", ms=3,
                  label=NAMES.get(str(metric), str(metric)))  # fmt: skip
        low, high = line["low"].to_numpy(float), line["high"].to_numpy(float)
        axes.fill_between(x, low, high, where=np.isfinite(low), color=colour, alpha=0.18, lw=0)
        if metric in before.index:
            axes.axhline(float(before[metric]), color=colour, lw=0.8, ls=":")
    axes.set_xscale("symlog", linthresh=1)
    oldest = max(1, int(found.records["later"].max()))
    ages = [end for end in (0, 1, *ENDS[1:]) if end <= oldest]
    axes.set_xticks(ages, [str(age) for age in ages])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0, oldest)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("facts edited since", fontsize=9)
    axes.set_title("what is left of an edit", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    axes.spines[["top", "right"]].set_visible(False)


def _matrix(axes: Axes, values: np.ndarray, made: list[int], steps: list[int], metric: str) -> None:
    image = axes.imshow(
        values, aspect="auto", cmap=sequential("#0072B2"), vmin=0, vmax=1, interpolation="nearest", origin="upper"
    )
    for set_ticks, labels in ((axes.set_xticks, steps), (axes.set_yticks, made)):
        shown = np.unique(np.linspace(0, len(labels) - 1, min(8, len(labels))).round().astype(int))
        set_ticks(shown, [str(labels[i]) for i in shown])
    axes.set_xlabel("after step", fontsize=9)
    axes.set_ylabel("facts of step", fontsize=9)
    axes.set_title(metric, fontsize=10)
    axes.figure.colorbar(image, ax=axes, format=PercentFormatter(1.0, decimals=0))
