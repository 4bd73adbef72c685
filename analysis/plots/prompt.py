"""One prompt as a heat map: tokens down, layers across, dark where restoring brings the answer back.

The figure of Meng et al. 2022 (figure 1e-g): each panel restores one component, colours run from the
corrupted run (light) to the clean run (dark), and the tokens that were corrupted carry a star.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...errors import UsageError
from ...patching.traces.table import Table
from ...public import public
from ..effects.effects import indirect_effects, total_effects
from .style import (
    COMPONENT_COLOURS,
    COMPONENT_NAMES,
    SEVERED_NAMES,
    drawable,
    footnote,
    metric_name,
    new_figure,
    provenance,
    sequential,
)

PANELS = ("resid", "mlp", "attn")


@public
def plot_prompt(table: Table, prompt: str, metric: str = "prob", *, severed: str = "none") -> Figure:
    """Heat maps of one prompt, a panel per restored component.

    Args:
        table: the long table of a trace.
        prompt: the prompt's name in the table.
        metric: what the colours show: its mean over draws after restoring.
        severed: which variant is drawn ("none", "mlp", "attn").

    Raises:
        UsageError: no such prompt, metric or variant in the table.
    """
    effects = indirect_effects(table, metric, prompt)
    effects = effects[effects["severed"] == severed]
    if effects.empty:
        raise UsageError(f"the table has no restored runs of {prompt!r} with severed={severed!r}; trace them first")
    total = total_effects(table, metric).set_index("prompt").loc[prompt]
    sites = [
        (component, int(window))
        for component in [*PANELS, *sorted(set(effects["component"]) - set(PANELS))]
        for window in sorted(effects.loc[effects["component"] == component, "window"].unique())
    ]
    n_tokens = effects["position"].nunique()
    figure = new_figure(4.3 * len(sites) + 0.6, 1.9 + 0.27 * n_tokens)
    panels = figure.subplots(1, len(sites), squeeze=False, sharey=True)[0]
    called = metric_name(metric, table.meta)
    for axes, (component, window) in zip(panels, sites, strict=True):
        part = effects[(effects["component"] == component) & (effects["window"] == window)]
        _panel(figure, axes, part, component, window, called, float(total["corrupted"]), float(total["clean"]))
    cut = "" if severed == "none" else f"  ·  {SEVERED_NAMES.get(severed, severed + ' severed')}"
    made = provenance({**table.meta, "window": None}) + cut
    title = figure.suptitle(f"{_sentence(effects)}{_compared(table, prompt)}\n{made}", fontsize=10)
    title.set_parse_math(False)
    footnote(figure, table.meta)
    return figure


def _panel(
    figure: Figure,
    axes: Axes,
    part: pd.DataFrame,
    component: str,
    window: int,
    called: str,
    low: float,
    high: float,
) -> None:
    grid = part.pivot(index="position", columns="layer", values="effect") + low
    values = grid.to_numpy(float)
    colours = sequential(COMPONENT_COLOURS.get(component, "#555555"))
    # A metric that falls when the answer comes back (rank, KL) is drawn with its scale turned round.
    lower, upper = sorted((low, high)) if low != high else (low, low + 1e-9)
    image = axes.pcolormesh(values, cmap=colours if high >= low else colours.reversed(), vmin=lower, vmax=upper)
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
    beyond = (bool((values < lower).any()), bool((values > upper).any()))
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    bar = figure.colorbar(image, ax=axes, extend=extend, aspect=18, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_ticks([low, high], labels=[f"corrupted\n{low:.3g}", f"clean\n{high:.3g}"])
    bar.ax.tick_params(labelsize=8, length=2)
    bar.set_label(called, fontsize=8, labelpad=-34)  # between the two tick labels


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
