"""The section of docs/real-models.md on where facts are: effects by layer, what reproduces, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mechinterp import analysis
from mechinterp.runs.frames import read_frame

from .aie import ELSEWHERE, EVERYTHING, SINK
from .setting import read_json
from .words import MISSING, interval, some_layers, table

LAST_SUBJECT, LAST = "last subject", "last"


def where(folder: Path, docs: Path) -> str:
    """What tracing found in one model.

    Args:
        folder: of its results.
        docs: where the figure goes.
    """
    if not (folder / "aie-effects.parquet").is_file():
        return f"### {folder.name}\n\nTracing: {MISSING}."
    effects = read_frame(folder / "aie-effects.parquet")[0]
    differences = read_frame(folder / "aie-differences.parquet")[0]
    said = read_json(folder / "aie.json")
    window, meta = said["window"], {**said["meta"], "model": folder.name, "window": said["window"]}
    main = effects[(effects["subset"] == EVERYTHING) & (effects["metric"] == "prob")]
    figure = docs / f"real-aie-{folder.name}.png"
    shown = main[main["window"].isin([1, window])]
    analysis.plot_aie(shown, meta=meta).savefig(figure, dpi=75)
    parts = [
        f"### {folder.name}",
        _head(said),
        f"![Average indirect effects of {folder.name}, by token role and layer]({figure.name})",
        _by_layer(main, differences, window),
        "What of Meng et al. 2022 is there (the layer is where it is largest; the band holds for all layers, roles and "
        "sites together):\n\n" + _claims(effects, differences, window),
        _windows(effects, differences, said["windows"]),
    ]
    parts += [_apart(effects, differences, window)] if (effects["subset"] == SINK).any() else []
    parts += [_prepended(folder, window)] if (folder / "aie-prepended.parquet").is_file() else []
    return "\n\n".join(parts)


def _head(said: Mapping[str, Any]) -> str:
    totals = {row["run"]: row for row in said["totals"] if row["subset"] == EVERYTHING and row["metric"] == "prob"}
    among = f", found among {said['asked']} that were asked" if said.get("asked") else ""
    return (
        f"{said['facts']} facts of known_1000 that it completes right{among}; {said['subject_first']} of them begin "
        f"with their subject. {said['meta'].get('draws', '?')} draws of noise, window {said['window']}. Probability of "
        f"the answer: clean {interval(totals['clean'])}, corrupted {interval(totals['corrupted'])}, total effect "
        f"{interval(totals['total_effect'])}. {said['cpu_seconds'] / said['facts']:.0f} CPU-seconds a fact, all "
        "windows together. AIE × 100, 95 % intervals over facts:"
    )


def _line(effects: pd.DataFrame, role: str, component: str, severed: str = "none", window: int = 1) -> pd.DataFrame:
    same = (effects["component"] == component) & (effects["severed"] == severed) & (effects["window"] == window)
    return effects[same & (effects["role"] == role)].set_index("layer").sort_index()


def _difference(differences: pd.DataFrame, what: str, subset: str = EVERYTHING) -> pd.DataFrame:
    same = (differences["what"] == what) & (differences["subset"] == subset) & (differences["metric"] == "prob")
    return differences[same & (differences["role"] == LAST_SUBJECT)].set_index("layer").sort_index()


def _lines(main: pd.DataFrame, differences: pd.DataFrame, window: int) -> dict[str, pd.DataFrame]:
    return {
        "MLP, last subject token": _line(main, LAST_SUBJECT, "mlp", window=window),
        "attention, last subject token": _line(main, LAST_SUBJECT, "attn", window=window),
        "MLP - attention, last subject token": _difference(differences, f"MLP - attention, window {window}"),
        "residual, last subject token": _line(main, LAST_SUBJECT, "resid"),
        "taken away by severing MLPs": _difference(differences, "taken away by severing MLPs"),
        "taken away by severing attention": _difference(differences, "taken away by severing attention"),
        "attention, last token": _line(main, LAST, "attn", window=window),
        "MLP, last token": _line(main, LAST, "mlp", window=window),
    }


def _by_layer(main: pd.DataFrame, differences: pd.DataFrame, window: int) -> str:
    lines = _lines(main, differences, window)
    layers = some_layers(list(main["layer"]))
    rows = [
        [name, *(interval(line.loc[layer]) if layer in line.index else "" for layer in layers)]
        for name, line in lines.items()
    ]
    return table(["restored at layer", *map(str, layers)], rows)


def _claims(effects: pd.DataFrame, differences: pd.DataFrame, window: int) -> str:
    main = effects[(effects["subset"] == EVERYTHING) & (effects["metric"] == "prob")]
    lines, half = _lines(main, differences, window), int(main["layer"].max() + 1) // 2
    severing = _difference(differences, "severing MLPs - severing attention")
    rows = [
        _claim("an early site in the MLPs at the last subject token", lines["MLP, last subject token"], range(half)),
        _claim("it is the MLPs' more than attention's", lines["MLP - attention, last subject token"], range(half)),
        _claim("a late site in attention at the last token", lines["attention, last token"], range(half, 2 * half + 1)),
        _claim("severing the MLPs takes the early effect away", lines["taken away by severing MLPs"], range(half)),
        _claim("and more of it than severing attention", severing, range(half)),
    ]
    return table(["claim", "layer", "largest, with interval", "band", "reproduced"], rows)


def _claim(name: str, line: pd.DataFrame, layers: Sequence[int]) -> list[str]:
    part = line[line.index.isin(layers)]
    if part.empty:
        return [name, "", MISSING, "", ""]
    layer = part["estimate"].idxmax()
    best = part.loc[layer]
    band = interval({"estimate": best["estimate"], "low": best["band_low"], "high": best["band_high"]})
    verdict = "yes" if best["band_low"] > 0 else "not beyond doubt" if best["estimate"] > 0 else "no"
    return [name, str(layer), interval(best), band.partition(" ")[2], verdict]


def _windows(effects: pd.DataFrame, differences: pd.DataFrame, windows: Sequence[int]) -> str:
    main, rows = effects[(effects["subset"] == EVERYTHING) & (effects["metric"] == "prob")], []
    for window in windows:
        lines = _lines(main, differences, window)
        names = ("MLP, last subject token", "attention, last subject token", "attention, last token")
        peak = lines[names[0]]["estimate"].idxmax()
        rows.append([str(window), str(int(lines[names[0]].loc[peak, "n_prompts"])), str(peak)])
        rows[-1] += [interval(lines[name].loc[peak]) for name in names[:2]]
        rows[-1].append(interval(lines["MLP - attention, last subject token"].loc[peak]))
        late = lines[names[2]]["estimate"].idxmax()
        rows[-1] += [str(late), interval(lines[names[2]].loc[late])]
    heads = [
        "window",
        "facts",
        "layer",
        "MLP, last subject",
        "attention there",
        "MLP - attention",
        "layer",
        "attention, last",
    ]
    return "By window, at the layer where each is largest:\n\n" + table(heads, rows)


def _apart(effects: pd.DataFrame, differences: pd.DataFrame, window: int) -> str:
    rows = []
    for subset in (SINK, ELSEWHERE):
        main = effects[(effects["subset"] == subset) & (effects["metric"] == "prob")]
        line = _line(main, LAST_SUBJECT, "mlp", window=window)
        paired = _difference(differences, f"MLP - attention, window {window}", subset)
        cut = _difference(differences, "severing MLPs - severing attention", subset)
        peak, deepest = line["estimate"].idxmax(), cut["estimate"].idxmax()
        n = int(line["n_prompts"].max())
        rows.append([subset, str(n), str(peak), interval(line.loc[peak]), interval(paired.loc[peak])])
        rows[-1] += [str(deepest), interval(cut.loc[deepest])]
    heads = ["facts whose", "n", "layer", "MLP, last subject", "MLP - attention", "layer", "severing MLPs - attention"]
    return "Facts that begin with their subject, and the others:\n\n" + table(heads, rows)


def _prepended(folder: Path, window: int) -> str:
    frame = read_frame(folder / "aie-prepended.parquet")[0]
    if frame.empty:
        return ""
    rows = []
    for name, component, role, width in (
        ("MLP, last subject token", "mlp", LAST_SUBJECT, window),
        ("residual, last subject token", "resid", LAST_SUBJECT, 1),
        ("attention, last token", "attn", LAST, window),
    ):
        line = _line(frame, role, component, window=width)
        layers = some_layers(list(frame["layer"]))
        rows.append([name, *(interval(line.loc[layer]) for layer in layers)])
    n = int(frame["n_prompts"].max())
    heads = ["with minus without, at layer", *map(str, layers)]
    return f"The same {n} facts with the token in front and without, paired:\n\n" + table(heads, rows)
