"""What editing does at each layer: does it take, does it reach other wordings, what does it break?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ...errors import UsageError
from ...public import public
from ..trials.sweep import layer_summary
from .aie import draw_line
from .style import footnote, interval_note, new_figure, provenance

PANELS = {
    "does the edit take?": ("ES", "PS", "S"),
    "what does it leave alone?": ("NS", "same_subject_kept"),
}
NAMES = {
    "ES": "ES: the edited sentence",
    "PS": "PS: other wordings",
    "NS": "NS: neighbourhood",
    "S": "S: harmonic mean of ES, PS, NS",
    "same_subject_kept": "the subject's other facts, kept",
}
COLOURS = {"ES": "#D55E00", "PS": "#E69F00", "NS": "#0072B2", "S": "#000000", "same_subject_kept": "#CC79A7"}
DASHES = {"ES": "-", "PS": "--", "NS": "-", "S": (0, (1, 1)), "same_subject_kept": "--"}


@public
def plot_edit_by_layer(edits: pd.DataFrame, *, level: float = 0.95, meta: Mapping[str, Any] | None = None) -> Figure:
    """Edit metrics over layers, with intervals over records; the faint lines are the unedited model.

    Args:
        edits: the long table of `edit_by_layer`, or its `layer_summary`.
        level: of the intervals, when they are still to be computed.
        meta: what the title says of the run: {"model": ..., "method": ...}.

    Raises:
        UsageError: a table without layers, or without any of the metrics that are drawn.
    """
    if "layer" not in edits.columns:
        raise UsageError("this table has no layers; give what edit_by_layer or layer_summary returned")
    summary = edits if "estimate" in edits.columns else layer_summary(edits, level=level)
    present = set(summary["metric"])
    panels = {title: [m for m in metrics if m in present] for title, metrics in PANELS.items()}
    if not any(panels.values()):
        raise UsageError(f"the table has none of the metrics {', '.join(NAMES)}; there is nothing to draw")
    known = dict(meta or {})
    figure = new_figure(9.0, 4.2)
    for axes, (title, metrics) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        for metric in metrics:
            of_metric = summary[summary["metric"] == metric]
            draw_line(axes, of_metric[of_metric["stage"] == "after"], COLOURS[metric], NAMES[metric], DASHES[metric])
            before = of_metric[of_metric["stage"] == "before"].sort_values("layer")
            axes.plot(before["layer"], before["estimate"], color=COLOURS[metric], lw=0.9, alpha=0.45, ls=DASHES[metric])
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("edited layer", fontsize=9)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(-0.03, 1.03)
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.axes[0].set_ylabel("share of records", fontsize=9)
    edited = int(summary["n_given"].max())
    lines = [
        provenance({"model": known.get("model")}) + ("  ·  " if known.get("model") else "")
        + f"{known.get('method', 'edits')} of one fact at one layer, {edited} facts",
        f"{interval_note('shaded', summary, level, edited, 'fact')}  ·  faint: the unedited model",
    ]  # fmt: skip
    figure.suptitle("\n".join(lines), fontsize=10)
    footnote(figure, known)
    return figure
