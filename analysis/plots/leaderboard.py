"""A leaderboard as a figure: a panel per metric, each number with its interval, the unedited model a dotted line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter, ScalarFormatter

from ...errors import UsageError
from ...given import Names, names_of
from ...public import public
from ..evaluation.edit_metrics import AFTER, BEFORE
from ..evaluation.metric_table import METRICS, SHARE
from ..trials.result import SHOWN, Leaderboard
from .style import footnote, interval_note, new_figure, provenance

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's, by editor; they begin again after the eighth, with other dashes."""
DASHES = ("-", "--", ":")
PANELS = 5
"""Panels in a row."""
_ASIDE = 1.03


@public
def plot_leaderboard(
    board: Leaderboard,
    edits: str | None = None,
    *,
    metrics: Names | None = None,
    summary: pd.DataFrame | None = None,
    level: float = 0.95,
    meta: Mapping[str, Any] | None = None,
) -> Figure:
    """Editors in each metric: dots where there is one size, lines over sizes where there are several.

    Args:
        board: of `leaderboard`.
        edits: "single", "batch" or "sequential"; default: the first there is.
        metrics: which; default: those of the short table that were measured.
        summary: `board.summary(level)`, where it is there already.
        level: of the intervals.
        meta: what the title says: {"model": ...}.

    Raises:
        UsageError: no edits of this kind, or none of the metrics.
    """
    found = board.summary(level) if summary is None else summary
    modes = list(dict.fromkeys(found["edits"]))
    chosen = modes[0] if edits is None else edits
    if chosen not in modes:
        raise UsageError(f"there are no {chosen} edits in this leaderboard; it has {', '.join(modes)}")
    part = found[found["edits"] == chosen]
    wanted = SHOWN if metrics is None else names_of(metrics, "metrics")
    there = [metric for metric in wanted if metric in set(part["metric"])]
    if not there:
        raise UsageError(f"none of the metrics {', '.join(wanted)} was measured; there is nothing to draw")
    sizes, editors = sorted(set(part["size"])), list(dict.fromkeys(part["editor"]))
    columns = min(PANELS, len(there))
    rows = -(-len(there) // columns)
    height = 0.8 + (0.3 * len(editors) + 0.5 if len(sizes) == 1 else 2.6) * rows
    figure = new_figure(0.9 + 2.6 * columns, height + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=len(sizes) == 1).ravel()
    for axes, metric in zip(panels, there, strict=False):
        draw = _dots if len(sizes) == 1 else _lines
        draw(axes, part[part["metric"] == metric], editors)
        _dress(axes, metric, over_sizes=len(sizes) > 1)
    for axes in panels[len(there) :]:
        axes.remove()
    if len(sizes) > 1:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), fontsize=8, frameon=False)
    known = dict(meta or {})
    name = provenance({"model": known.get("model")})
    records = int(part["n_given"].max())
    figure.suptitle(
        f"{name}{'  ·  ' if name else ''}{chosen} edits of {records} facts\n"
        f"{interval_note('bars', part, level, records, 'fact')}  ·  dotted: the unedited model",
        fontsize=10,
    )
    footnote(figure, known)
    return figure


def _dots(axes: Axes, part: pd.DataFrame, editors: Sequence[str]) -> None:
    after = part[part["stage"] == AFTER].set_index("editor")
    for place, editor in enumerate(editors):
        if editor in after.index:
            row = after.loc[editor]
            axes.plot([row["low"], row["high"]], [place, place], color=COLOURS[place % len(COLOURS)], lw=1.6)
            axes.plot(row["estimate"], place, "o", ms=5, color=COLOURS[place % len(COLOURS)])
    before = part[part["stage"] == BEFORE]
    if len(before):
        axes.axvline(float(before["estimate"].iloc[0]), color="#555555", lw=0.9, ls=":")
    axes.set_yticks(range(len(editors)), list(editors))
    axes.set_ylim(len(editors) - 0.5, -0.5)


def _lines(axes: Axes, part: pd.DataFrame, editors: Sequence[str]) -> None:
    for place, editor in enumerate(editors):
        line = part[(part["stage"] == AFTER) & (part["editor"] == editor)].sort_values("size")
        colour, dashes = COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]
        aside = _ASIDE ** (place - (len(editors) - 1) / 2)  # so that no editor's interval hides another's
        x, y = line["size"].to_numpy(float) * aside, line["estimate"].to_numpy(float)
        axes.plot(x, y, color=colour, ls=dashes, marker="o", ms=3, label=editor)
        low, high = line["low"].to_numpy(float), line["high"].to_numpy(float)
        axes.vlines(x, low, high, color=colour, lw=1.2, alpha=0.7)
    before = part[part["stage"] == BEFORE]
    if len(before):
        axes.axhline(float(before["estimate"].iloc[0]), color="#555555", lw=0.9, ls=":")
    axes.set_xscale("log")
    sizes = sorted(set(part["size"]))
    axes.set_xticks(sizes)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("facts edited", fontsize=8)


def _dress(axes: Axes, metric: str, *, over_sizes: bool) -> None:
    known = METRICS[metric]
    axis = axes.yaxis if over_sizes else axes.xaxis
    if known.unit == SHARE:
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        set_limits = axes.set_ylim if over_sizes else axes.set_xlim
        set_limits(-0.03, 1.03)
    axes.set_title(f"{metric}{'' if known.better == 'higher' else ' (lower is better)'}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
