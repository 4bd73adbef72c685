"""One prompt as a heat map: tokens down, layers across, coloured where restoring changes the answer.

The figure of Meng et al. 2022 (figure 1e-g) with one scale for all panels: white is the corrupted run, orange is
towards the clean run and purple away from it, by as much; the tokens that were corrupted carry a star.  Tokens before
the subject, where nothing was corrupted and restoring does nothing, are folded into one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import CenteredNorm, Colormap
from matplotlib.figure import Figure

from ...errors import UsageError
from ...facts.spans import BEFORE
from ...patching.traces.table import Table
from ...public import public
from ..effects.effects import indirect_effects, total_effects
from .style import (
    COMPONENT_NAMES,
    SEVERED_NAMES,
    check_no_heads,
    drawable,
    footnote,
    metric_name,
    new_figure,
    provenance,
)

PANELS = ("resid", "mlp", "attn")


@public
def plot_prompt(table: Table, prompt: str | None = None, metric: str = "prob", *, severed: str = "none") -> Figure:
    """Heat maps of one prompt, a panel per restored component.

    Args:
        table: the long table of a trace.
        prompt: the prompt's name in the table; None: a typical one, whose total effect is the median.
        metric: what the colours show: its mean over draws after restoring.
        severed: which variant is drawn ("none", "mlp", "attn").

    Raises:
        UsageError: no such prompt, metric or variant in the table, or single heads.
    """
    prompt = _typical(table, metric) if prompt is None else prompt
    effects = indirect_effects(table, metric, prompt)
    check_no_heads(effects)
    effects = effects[effects["severed"] == severed]
    if effects.empty:
        raise UsageError(f"the table has no restored runs of {prompt!r} with severed={severed!r}; trace them first")
    total = total_effects(table, metric).set_index("prompt").loc[prompt]
    sites = [
        (component, int(window))
        for component in [*PANELS, *sorted(set(effects["component"]) - set(PANELS))]
        for window in sorted(effects.loc[effects["component"] == component, "window"].unique())
    ]
    scale = _scale(effects, float(total["corrupted"]), float(total["clean"]))
    sentence, effects = _sentence(effects), _folded(effects)
    n_tokens = effects["position"].nunique()
    figure = new_figure(4.3 * len(sites) + 0.6, 1.9 + 0.27 * n_tokens)
    panels = figure.subplots(1, len(sites), squeeze=False, sharey=True)[0]
    called = metric_name(metric, table.meta)
    for axes, (component, window) in zip(panels, sites, strict=True):
        part = effects[(effects["component"] == component) & (effects["window"] == window)]
        image = _panel(axes, part, component, window, scale)
    _bar(figure, image, list(panels), called, scale)
    cut = "" if severed == "none" else f"  ·  {SEVERED_NAMES.get(severed, severed + ' severed')}"
    made = provenance({**table.meta, "window": None}) + cut
    title = figure.suptitle(f"{sentence}{_compared(table, prompt)}\n{made}", fontsize=10)
    title.set_parse_math(False)
    footnote(figure, table.meta)
    return figure


@dataclass(frozen=True)
class _Scale:
    """One scale for all panels: `low` is white, and `span` on either side of it the ends."""

    low: float
    high: float
    span: float

    @property
    def norm(self) -> CenteredNorm:
        return CenteredNorm(vcenter=self.low, halfrange=self.span)

    @property
    def colours(self) -> Colormap:
        """Orange towards the clean run, also of a metric that falls when the answer comes back (rank, KL)."""
        return matplotlib.colormaps["PuOr_r" if self.high >= self.low else "PuOr"]


def _typical(table: Table, metric: str) -> str:
    """The prompt in the middle, by its total effect."""
    totals = total_effects(table, metric).sort_values("total_effect", kind="stable")
    return str(totals["prompt"].iloc[(len(totals) - 1) // 2])


def _scale(effects: pd.DataFrame, low: float, high: float) -> _Scale:
    span = max(abs(high - low), float(effects["effect"].abs().max()), 1e-9)
    return _Scale(low, high, span)


def _folded(effects: pd.DataFrame) -> pd.DataFrame:
    """The effects with the rows before the subject as one, where there are several and nothing happens in them."""
    before = effects["role"] == BEFORE
    positions = sorted(effects.loc[before, "position"].unique())
    if len(positions) < 2 or effects.loc[before, "effect"].abs().max() > 0:
        return effects
    kept = effects[~before | (effects["position"] == positions[-1])].copy()
    kept.loc[kept["role"] == BEFORE, "token"] = f"{len(positions)} tokens before"
    return kept


def _panel(axes: Axes, part: pd.DataFrame, component: str, window: int, scale: _Scale) -> QuadMesh:
    grid = part.pivot(index="position", columns="layer", values="effect") + scale.low
    image = axes.pcolormesh(grid.to_numpy(float), cmap=scale.colours, norm=scale.norm)
    axes.invert_yaxis()
    tokens = part.drop_duplicates("position").set_index("position").loc[grid.index]
    labels = [drawable(str(row.token)) + "*" * ("subject" in str(row.role)) for row in tokens.itertuples()]
    axes.set_yticks(np.arange(len(labels)) + 0.5, labels, fontsize=9)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    step = max(1, int(np.ceil(len(grid.columns) / 12)))
    shown = np.arange(0, len(grid.columns), step)
    axes.set_xticks(shown + 0.5, [str(grid.columns[i]) for i in shown], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    name = COMPONENT_NAMES.get(component, component)
    axes.set_xlabel("layer" if window == 1 else f"centre of the {window} restored layers", fontsize=9)
    axes.set_title(f"{name} restored", fontsize=10)
    return image


def _bar(figure: Figure, image: QuadMesh, panels: list[Axes], called: str, scale: _Scale) -> None:
    """The one scale, with the corrupted and the clean run marked."""
    bar = figure.colorbar(image, ax=panels, aspect=18, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_ticks([scale.low, scale.high], labels=[f"corrupted\n{scale.low:.3g}", f"clean\n{scale.high:.3g}"])
    if scale.high < scale.low:
        bar.ax.invert_yaxis()
    bar.ax.tick_params(labelsize=8, length=2)
    bar.set_label(called, fontsize=8)


def _compared(table: Table, prompt: str) -> str:
    """The answer, and the foil that its logit is compared with, as far as the table has them."""
    answer = table.meta.get("scored", {}).get(prompt, "")
    foil = table.frame.loc[table.frame["prompt"] == prompt, "foil"].iloc[0]
    said = f" → {drawable(answer)}" if answer else ""
    return f"{said} (foil {drawable(foil)})" if foil else said


def _sentence(effects: pd.DataFrame) -> str:
    """The sentence as the model saw it."""
    tokens = effects.drop_duplicates("position").sort_values("position")["token"]
    return "“" + drawable("".join(str(token) for token in tokens)) + "”"
