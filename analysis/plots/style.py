"""What every figure shares: colours, names, the line that says how it was made.

Colours are Okabe and Ito's (2008), told apart under the usual colour-blindnesses; a component keeps its
colour in all figures.  Figures are built on `matplotlib.figure.Figure` and never touch pyplot, so they need
no display and leave no global state behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator

from ...errors import UsageError
from ...runs.files import written_aside
from ..intervals import MIN_UNITS, why_no_interval

COMPONENT_COLOURS = {"resid": "#0072B2", "mlp": "#009E73", "attn": "#D55E00"}
COMPONENT_NAMES = {"resid": "residual state", "mlp": "MLP", "attn": "attention"}
SEVERED_NAMES = {"none": "nothing severed", "mlp": "MLP severed", "attn": "attention severed"}
SEVERED_COLOURS = COMPONENT_COLOURS | {"none": COMPONENT_COLOURS["resid"]}
SEVERED_DASHES = {"none": "-", "mlp": "--", "attn": ":"}

METRIC_NAMES = {
    "prob": "probability of the answer",
    "log_prob": "log-probability of the answer (nats)",
    "logit_diff": "logit difference (logits)",
    "rank": "rank of the answer",
    "kl": "KL from the clean prediction (nats)",
}


def metric_name(metric: str, meta: Mapping[str, Any]) -> str:
    """A metric as a figure calls it; one of the user's own by its name and unit."""
    unit = meta.get("metrics", {}).get(metric, {}).get("unit", "")
    return METRIC_NAMES.get(metric) or metric.replace("_", " ") + (f" ({unit})" if unit else "")


ENDINGS = ("png", "pdf", "svg", "jpg", "jpeg", "webp", "tif", "tiff", "eps", "ps")
"""Of figures that can be written everywhere."""

FOOTNOTES = {
    "atlas": "synthetic model; early site partly designed in: see docs/atlas.md",
    "atlas-plain": "synthetic model; plainly trained control without an early site: see docs/atlas.md",
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches) with the constrained layout, independent of any display."""
    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def check_ending(path: str | Path) -> None:
    """Look at the end of a figure's name, which says its format, before the figure is drawn.

    Raises:
        UsageError: no figure can have it; the endings are listed.
    """
    ending = Path(path).suffix
    if ending.lower().removeprefix(".") not in ENDINGS:
        raise UsageError(
            f"{str(path)!r} {f'ends in {ending!r}' if ending else 'has no ending'}, which is no figure's; give one of "
            f".{', .'.join(ENDINGS)}"
        )


def sequential(colour: str) -> LinearSegmentedColormap:
    """White to the colour to nearly black: light means little, also in grey print."""
    return LinearSegmentedColormap.from_list(colour, ["#ffffff", colour, "#0b1a22"])


def plain(axes: Axes) -> None:
    """Take the box away and keep layers whole numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def provenance(meta: Mapping[str, Any], n_prompts: int | None = None) -> str:
    """How the numbers were made, in one line: model, prompts, noise, draws, windows, as far as known."""
    parts = [str(meta["model"])] if meta.get("model") else []
    if n_prompts is not None:
        parts.append(f"{n_prompts} prompt" + ("" if n_prompts == 1 else "s"))
    level, sigmas = meta.get("noise_level"), meta.get("sigmas")
    if sigmas is not None:
        parts.append(f"noise {sigmas:g}σ" + (f" = {level:.3g}" if level is not None else ""))
    elif level is not None:
        parts.append(f"noise {level:.3g}")
    if meta.get("draws") is not None:
        draws = int(meta["draws"])
        parts.append(f"{draws} draw" + ("" if draws == 1 else "s"))
    if meta.get("window") is not None:
        windows = meta["window"]
        listed = [windows] if isinstance(windows, int) else list(windows)
        parts.append("window " + ", ".join(str(window) for window in listed))
    return "  ·  ".join(parts)


def check_no_heads(effects: pd.DataFrame) -> None:
    """Refuse effects of single heads, for figures that have a line or a colour for each layer.

    Raises:
        UsageError: there are some.
    """
    if (effects["head"] >= 0).any() if "head" in effects else False:
        raise UsageError("the table holds single heads, which this figure has no place for; use plot_heads")


def interval_note(drawn: str, summary: pd.DataFrame, level: float, units: int, what: str) -> str:
    """What the shading (or the bars) of a figure is, or why there is none.

    Args:
        drawn: "shaded" or "bars".
        summary: with columns low and high.
        level: of the intervals.
        units: how many there are at most.
        what: their name in the singular.
    """
    if summary["low"].notna().any():
        return f"{drawn}: {level:.0%} interval over {what}s"
    return why_no_interval(units, what) or f"no intervals: fewer than {MIN_UNITS} groups of {what}s"


def footnote(figure: Figure, meta: Mapping[str, Any]) -> None:
    """The caveat of a bundled model, small, at the foot of the figure; its name counts where the weights are unsaid."""
    sentence = FOOTNOTES.get(str(meta.get("bundled", meta.get("model", ""))))
    if sentence:
        figure.supxlabel(sentence, fontsize=7, color="#555555", x=0.995, ha="right")


def drawable(text: str) -> str:
    """A token as it can be drawn: line breaks visible, letters the font lacks as escapes."""
    text = text.strip(" ").replace("\n", "↵").replace("\t", "⇥") or "␣"
    font = get_font(findfont(FontProperties(family=matplotlib.rcParams["font.family"])))
    return "".join(c if font.get_char_index(ord(c)) else c.encode("unicode_escape").decode() for c in text)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all; the end of the name says in which format (PNG where it says nothing).

    Raises:
        StorageError: it cannot be written.
    """
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=150, format=Path(path).suffix[1:] or "png")
