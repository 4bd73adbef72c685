"""What else an edit changed: how many facts of each kin, in whose favour, and how far their probability fell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ...errors import UsageError
from ...public import public
from ..damage.diff import FAVOURED, NEW_TARGET, OWN_ANSWER
from ..damage.known_facts import KIN
from .style import drawable, footnote, new_figure, provenance

COLOURS = {NEW_TARGET: "#D55E00", OWN_ANSWER: "#009E73"}
OTHER_COLOUR = "#999999"
LABELS = 10
"""Facts that are named: those that fell most."""


@public
def plot_diff(table: pd.DataFrame, *, meta: Mapping[str, Any] | None = None) -> Figure:
    """A `diff` as a figure: the share of changed facts by kin and what replaced them; the facts that fell most.

    Args:
        table: of `diff`.
        meta: what the title says: {"model": ..., "method": ...}.

    Raises:
        UsageError: an empty table, or one that is no diff.
    """
    if not {"kin", "favour", "fall"} <= set(table.columns) or table.empty:
        raise UsageError("this is no table of diff(), or an empty one; there is nothing to draw")
    known = dict(meta or {})
    figure = new_figure(9.5, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.1])
    _shares(left, table)
    _falls(right, table)
    edits = table["edit"].nunique()
    what = f"{known.get('method', 'edits')}: {edits} edit{'' if edits == 1 else 's'}, {len(table)} facts asked"
    changed = table["changed"].mean()
    name = provenance({"model": known.get("model")})
    figure.suptitle(f"{name}{'  ·  ' if name else ''}{what}, {changed:.1%} answered otherwise", fontsize=10)
    footnote(figure, known)
    return figure


def _shares(axes: Axes, table: pd.DataFrame) -> None:
    present = [kin for kin in KIN if (table["kin"] == kin).any()]
    left = np.zeros(len(present))
    for favour in FAVOURED:
        widths = np.array([(table.loc[table["kin"] == kin, "favour"] == favour).mean() for kin in present])
        axes.barh(range(len(present)), widths, left=left, color=COLOURS.get(favour, OTHER_COLOUR), label=favour)
        left = left + widths
    counts = [int((table["kin"] == kin).sum()) for kin in present]
    axes.set_yticks(range(len(present)), [f"{kin} (n = {n})" for kin, n in zip(present, counts, strict=True)])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(0, max(1e-3, float(left.max())) * 1.05)
    axes.set_title("changed, in favour of", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _falls(axes: Axes, table: pd.DataFrame) -> None:
    most = table.nlargest(LABELS, "fall").iloc[::-1]
    colours = [COLOURS.get(favour, OTHER_COLOUR) for favour in most["favour"]]
    axes.barh(range(len(most)), most["fall"], color=colours)
    names = [
        f"{_short(prompt)}: {drawable(before)} → {drawable(after)}"
        for prompt, before, after in zip(most["prompt"], most["top_before"], most["top_after"], strict=True)
    ]
    axes.set_yticks(range(len(most)), names)
    axes.set_xlabel("fall of log P (nats)", fontsize=9)
    axes.set_title("facts that fell most", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)


def _short(text: str) -> str:
    words = drawable(text)
    return words if len(words) <= 42 else "…" + words[-41:]
