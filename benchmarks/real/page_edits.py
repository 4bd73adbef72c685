"""The sections of docs/real-models.md on edits, what they drift, and what everything costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mechinterp import analysis
from mechinterp.runs.frames import read_frame

from .setting import read_json
from .words import MISSING, interval, table

NAMES = {"ES_acc": "said", "perplexity": "perplexity"}
SHOWN = ("ES", "ES_acc", "PS", "NS", "S")
GOAL_S, GOAL_NS = 85.0, -3.0
"""Wanted: S of at least so much, and NS no more than so many points below the unedited model's."""


def edits(folder: Path) -> str:
    """Scores of one model's edits, beside the unedited ones."""
    parts = [f"### {folder.name}"]
    if (folder / "edits-summary.parquet").is_file():
        summary = read_frame(folder / "edits-summary.parquet")[0]
        changes = read_frame(folder / "edits-changes.parquet")[0]
        said = read_json(folder / "edits.json")
        parts += [_singles(summary, changes, said), _batches(summary, said)]
    else:
        parts.append(f"Edits of single facts, and of many at once: {MISSING}.")
    parts.append(_by_layer(folder))
    parts.append(_texts(folder))
    return "\n\n".join(part for part in parts if part)


def _singles(summary: pd.DataFrame, changes: pd.DataFrame, said: Mapping[str, Any]) -> str:
    part = summary[summary["edits"] == "single"]
    if part.empty:
        return f"Edits of single facts: {MISSING}."
    costs = {row["editor"]: row for row in said["costs"] if row["edits"] == "single"}
    names = list(dict.fromkeys(part["editor"]))
    rows = [["unedited", *_scores(part[part["editor"] == names[0]], "before"), "", "", ""]]
    verdicts = []
    for name in names:
        own = part[part["editor"] == name]
        cost, moved = costs[name], _change(changes, name, "NS")
        rows.append(
            [name, *_scores(own, "after"), interval(moved) if moved is not None else "", str(cost["failed"]),
             f"{cost['seconds'] / cost['facts']:.1f}"]
        )  # fmt: skip
        score = own[(own["stage"] == "after") & (own["metric"] == "S")]["estimate"]
        if len(score) and moved is not None:
            reached = 100 * float(score.iloc[0]) >= GOAL_S and 100 * float(moved["estimate"]) >= GOAL_NS
            verdicts.append(f"{name} {'reaches' if reached else 'does not reach'} it")
    n = int(part["n_given"].max())
    heads = ["editor", *(NAMES.get(metric, metric) for metric in SHOWN), "NS, change", "not made", "seconds"]
    layers = said["settings"]["layers"]
    return (
        f"{n} records of CounterFact, each edited alone (per cent; layers: "
        f"{', '.join(f'{name} {_few(at)}' for name, at in layers.items())}; `said`: the target is the model's own "
        f"answer):\n\n{table(heads, rows)}\n\nThe goal is S of at least {GOAL_S:.0f} with NS no more than "
        f"{-GOAL_NS:.0f} points below the unedited model's: {', '.join(verdicts) or MISSING}."
    )


def _batches(summary: pd.DataFrame, said: Mapping[str, Any]) -> str:
    part = summary[summary["edits"] == "batch"]
    if part.empty:
        return f"Many facts in one edit: {MISSING}."
    shown = (*SHOWN, "perplexity")
    rows = []
    for size in sorted(part["size"].unique()):
        own = part[part["size"] == size]
        first = own["editor"].iloc[0]
        rows.append([f"unedited, {size} facts", *_scores(own[own["editor"] == first], "before", shown)])
        for name in dict.fromkeys(own["editor"]):
            rows.append([f"{name}, {size} at once", *_scores(own[own["editor"] == name], "after", shown)])
    heads = ["editor", *(NAMES.get(metric, metric) for metric in shown)]
    return "Many facts in one edit; the intervals are over its facts and say little of other edits:\n\n" + table(
        heads, rows
    )


def _scores(part: pd.DataFrame, stage: str, metrics: tuple[str, ...] = SHOWN) -> list[str]:
    own = part[part["stage"] == stage].set_index("metric")
    return [
        interval(own.loc[metric], 1 if metric == "perplexity" else 100) if metric in own.index else ""
        for metric in metrics
    ]


def _change(changes: pd.DataFrame, editor: str, metric: str) -> pd.Series | None:
    own = changes[(changes["edits"] == "single") & (changes["editor"] == editor) & (changes["metric"] == metric)]
    return None if own.empty else own.iloc[0]


def _by_layer(folder: Path) -> str:
    path = folder / "edits-layers.parquet"
    if not path.is_file():
        return f"ROME by layer: {MISSING}."
    found = analysis.layer_summary(read_frame(path)[0])
    traced: dict[int, str] = {}
    if (folder / "aie-effects.parquet").is_file():
        effects = read_frame(folder / "aie-effects.parquet")[0]
        window = read_json(folder / "aie.json")["window"]
        same = (effects["subset"] == "all facts") & (effects["metric"] == "prob") & (effects["component"] == "mlp")
        line = effects[same & (effects["window"] == window) & (effects["role"] == "last subject")]
        traced = {int(row["layer"]): interval(row) for row in line.to_dict("records")}
    rows = [["unedited", *_scores(found[found["layer"] == found["layer"].min()], "before"), ""]]
    rows += [
        [str(layer), *_scores(part, "after"), traced.get(int(layer), MISSING)] for layer, part in found.groupby("layer")
    ]
    heads = ["layer", *(NAMES.get(metric, metric) for metric in SHOWN), "AIE of the MLPs there"]
    return f"ROME by layer, {int(found['n_given'].max())} records, beside the trace:\n\n{table(heads, rows)}"


def _texts(folder: Path) -> str:
    found = read_json(folder / "edits-texts.json")
    if not found:
        return f"Texts before and after: {MISSING}."
    lines = ["What it writes, always its most probable token, before and after ROME:", ""]
    for one in found:
        lines.append(f"- **{_quoted(one['prompt'])}** ({one['answer']} → {one['target']})")
        lines.append(f"  - before: {_rest(one['before'], one['prompt'])}")
        lines.append(
            f"  - after: {_rest(one['after'], one['prompt']) if 'after' in one else 'not made: ' + one['failed']}"
        )
    return "\n".join(lines)


def _rest(text: str, prompt: str) -> str:
    return _quoted(text.removeprefix(prompt).strip())


def _quoted(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*").replace("<", "\\<")


def _few(layers: list[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
