"""Average indirect effects by token role: MLP against attention, and what severing takes away.

A panel per role with a line per component over layers; where the table holds severed runs, a further panel
shows the residual state at the last subject token whole, with the MLPs severed and with attention severed
(Meng et al. 2022, figures 2 and 3).  Shading is the interval over prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from ...errors import UsageError
from ...facts.spans import ROLES
from ...patching.traces.table import Table
from ...public import public
from ..effects.averages import average_indirect_effects, average_total_effect
from ..effects.windows import window_against_singles
from ..intervals import with_interval
from .style import (
    COMPONENT_COLOURS,
    COMPONENT_NAMES,
    SEVERED_COLOURS,
    SEVERED_DASHES,
    SEVERED_NAMES,
    check_no_heads,
    footnote,
    interval_note,
    metric_name,
    new_figure,
    plain,
    provenance,
)

SEVERED_ROLE = "last subject"


@public
def plot_aie(
    source: Table | pd.DataFrame,
    metric: str = "prob",
    *,
    level: float = 0.95,
    seed: int = 0,
    cluster: str = "prompt",
    meta: Mapping[str, Any] | None = None,
) -> Figure:
    """The AIE figure of a trace.

    Args:
        source: a trace table, or the frame `average_indirect_effects` made of one.
        metric: of the table; with a frame, only the name on the axis.
        level, seed, cluster: of the intervals, when they are still to be computed.
        meta: what the title says of the run; taken from a table by itself.

    Raises:
        UsageError: nothing restored, no unsevered effects, or single heads in the source.
    """
    if isinstance(source, Table):
        effects = average_indirect_effects(source, metric, level=level, seed=seed, cluster=cluster)
        known: Mapping[str, Any] = source.meta if meta is None else meta
        total = average_total_effect(source, metric, level=level, seed=seed, cluster=cluster)
        sums = window_against_singles(source, metric)
    else:
        effects, known, total, sums = source, meta or {}, None, None
    check_no_heads(effects)
    whole = effects[effects["severed"] == "none"]
    roles = [role for role in ROLES if role in set(whole["role"])]
    if not roles:
        raise UsageError("the effects hold no unsevered run at any of the six token roles; there is nothing to draw")
    severed = effects[(effects["role"] == SEVERED_ROLE) & (effects["component"] == "resid")]
    with_severed = severed["severed"].nunique() > 1

    columns = 2 if len(roles) == 4 else min(3, len(roles))
    rows = -(-len(roles) // columns)
    figure = new_figure(2.75 * columns + (4.2 if with_severed else 0.0) + 0.4, 2.35 * rows + 1.5)
    left: FigureBase = figure
    right: FigureBase | None = None
    if with_severed:
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[2.75 * columns, 4.2])[0]
    panels = left.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    called = metric_name(metric, known)
    for axes, role, letter in zip(panels, roles, ascii_lowercase, strict=False):
        _role_panel(axes, whole[whole["role"] == role], f"{letter}  {role}")
        if sums is not None:
            _sums(axes, sums[(sums["role"] == role) & (sums["severed"] == "none")])
    for axes in panels[len(roles) :]:
        axes.remove()
    for axes in panels[max(0, len(roles) - columns) : len(roles)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("layer (centre of a window)", fontsize=8)
    handles, labels = _legend(panels[: len(roles)])
    left.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), fontsize=9, frameon=False)
    for axes in panels[: len(roles) : columns]:
        axes.set_ylabel(f"AIE: {called}", fontsize=8)
    if right is not None:
        _severed_panel(right.subplots(), severed, called, ascii_lowercase[len(roles)])
    figure.suptitle(_title(known, effects, total, called, level), fontsize=10)
    footnote(figure, known)
    return figure


def _role_panel(axes: Axes, part: pd.DataFrame, called: str) -> None:
    lines = dict(list(part.groupby(["component", "window"], observed=True)))
    order = [*COMPONENT_NAMES, *sorted(set(part["component"]) - set(COMPONENT_NAMES))]
    for (component, window), line in sorted(lines.items(), key=lambda item: (order.index(item[0][0]), -item[0][1])):
        width = "1 layer" if window == 1 else f"{window} layers"
        label = f"{COMPONENT_NAMES.get(component, component)} ({width})"
        dashes = "-" if window == part.loc[part["component"] == component, "window"].max() else (0, (4, 2))
        draw_line(axes, line, COMPONENT_COLOURS.get(component, "#555555"), label, dashes)
    n, given = int(part["n_prompts"].max()), int(part["n_given"].max())
    axes.set_title(f"{called} token" + ("" if n == given else f" (n = {n})"), fontsize=9)


def _sums(axes: Axes, sums: pd.DataFrame) -> None:
    """What the layers of each window do one by one, added up: a window's line above it is joint effect."""
    for (component, window), line in sums.sort_values("layer").groupby(["component", "window"], observed=True):
        name = COMPONENT_NAMES.get(component, component)
        colour = COMPONENT_COLOURS.get(component, "#555555")
        label = f"{name} ({window} single layers added up)"
        axes.plot(line["layer"], line["sum_of_singles"], color=colour, label=label, lw=1.0, ls=(0, (1, 1.5)))


def _severed_panel(axes: Axes, part: pd.DataFrame, called: str, letter: str) -> None:
    present = set(part["severed"])
    for variant in [*(known for known in SEVERED_NAMES if known in present), *sorted(present - set(SEVERED_NAMES))]:
        name = SEVERED_NAMES.get(variant, f"{variant} severed")
        colour, dashes = SEVERED_COLOURS.get(variant, "#555555"), SEVERED_DASHES.get(variant, "-.")
        draw_line(axes, part[part["severed"] == variant], colour, name, dashes)
    axes.set_title(f"{letter}  residual state, {SEVERED_ROLE} token (own scale)", fontsize=9)
    axes.set_xlabel("layer", fontsize=9)
    axes.set_ylabel(f"AIE: {called}", fontsize=9)
    axes.legend(fontsize=8, frameon=False)


def draw_line(axes: Axes, line: pd.DataFrame, colour: str, label: str, dashes: Any = "-") -> None:
    """Estimates over layers with the interval shaded, its ends as thin lines, so that three can be told apart."""
    line = line.sort_values("layer")
    x = line["layer"].to_numpy(float)
    axes.axhline(0, color="#bbbbbb", lw=0.7, zorder=0)
    axes.plot(x, line["estimate"].to_numpy(float), color=colour, label=label, ls=dashes, lw=1.7, marker="o", ms=2.6)
    low, high = line["low"].to_numpy(float), line["high"].to_numpy(float)
    axes.fill_between(x, low, high, where=np.isfinite(low), color=colour, alpha=0.12, lw=0)
    for end in (low, high):
        axes.plot(x, end, color=colour, lw=0.6, alpha=0.7)
    plain(axes)


def _legend(panels: Any) -> tuple[list[Any], list[str]]:
    """Each line once, whichever panels it stands in."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _title(
    meta: Mapping[str, Any], effects: pd.DataFrame, total: pd.DataFrame | None, called: str, level: float
) -> str:
    lines = [f"Average indirect effect (AIE) of restoring one site: {called}"]
    prompts = int(effects["n_given"].max())
    lines.append(provenance(meta, prompts))
    shaded = interval_note("shaded", effects, level, prompts, "prompt")
    if total is not None:
        effect = total.loc["total_effect"]
        shaded = (
            f"clean {total.loc['clean', 'estimate']:.3g}, "
            f"corrupted {total.loc['corrupted', 'estimate']:.3g}, "
            f"total effect {with_interval(effect, '.3g')}  ·  {shaded}"
        )
    return "\n".join([*lines, shaded])
