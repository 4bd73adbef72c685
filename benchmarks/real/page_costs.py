"""The sections of docs/real-models.md on known facts, drift, how much text C needs, and costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mechinterp.runs.frames import read_frame

from .setting import read_json
from .words import MISSING, interval, table

NEEDED = 0.99
"""The cosine that is asked for."""


def known(folders: Sequence[Path]) -> str:
    """How many facts each model knows."""
    rows = []
    for folder in folders:
        found = read_json(folder / "known.json")
        if found is None:
            rows.append([folder.name, "", MISSING, "", "", ""])
            continue
        for name in ("known_1000", "counterfact"):
            if one := found.get(name):
                preferred = one.get("true_above_new")
                rows.append(
                    [folder.name, name, f"{one['right']} of {one['asked']}", interval(one["known"]),
                     interval(preferred) if preferred else "", f"{one['cpu_seconds_per_fact']:.2f}"]
                )  # fmt: skip
    return table(["model", "facts", "known", "per cent", "P(true) > P(new)", "CPU-seconds a fact"], rows)


def drift(folders: Sequence[Path]) -> str:
    """Essence drift by KL factor."""
    rows = []
    for folder in folders:
        found = read_json(folder / "drift.json")
        if found is None:
            rows.append([folder.name, "", "", MISSING, "", ""])
            continue
        for one in found["drift"]:
            said = found["said"].get(one["kl"])
            rows.append(
                [folder.name, f"`{{}}{one['after']}`", one["kl"], interval(one["nats"], 1, 2),
                 interval(one["more_than_default"], 1, 2) if "more_than_default" in one else "",
                 interval(said) if said else ""]
            )  # fmt: skip
    heads = ["model", "after", "KL factor", "nats", "more than with the default, paired", "target said, per cent"]
    return table(heads, rows)


def text_needed(folders: Sequence[Path], docs: Path) -> str:
    """How the direction C⁻¹k* settles with more text."""
    rows, drawn = [], Figure(figsize=(6.0, 3.6), layout="constrained")
    axes, lines = drawn.subplots(), 0
    for folder in folders:
        path = folder / "moments-convergence.parquet"
        if not path.is_file():
            rows.append([folder.name, "", "", MISSING])
            continue
        frame, meta = read_frame(path)
        seen = frame.dropna(subset=["final_cosine"]).sort_values("tokens")
        total, seen = int(frame["tokens"].max()), seen[seen["tokens"] < frame["tokens"].max()]
        for limit, column in (("median fact", "final_cosine"), ("nine facts in ten", "final_low")):
            enough = seen[seen[column] >= NEEDED]
            reached = f"{enough['per_unit'].iloc[0]:.0f}" if len(enough) else f"more than {seen['per_unit'].max():.0f}"
            rows.append([folder.name, f"layer {meta['layer']}, {total:,} tokens", limit, reached])
        axes.plot(seen["per_unit"], seen["final_cosine"], "o-", label=folder.name)
        lines += 1
    made = table(["model", "truth", "for", f"tokens per unit for a cosine of {NEEDED}"], rows)
    if not lines:
        return made
    axes.axhline(NEEDED, color="black", lw=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("tokens per unit of the MLP")
    axes.set_ylabel("cosine of C⁻¹k* with its final direction")
    axes.legend(frameon=False, fontsize=8)
    drawn.savefig(docs / "real-moments-convergence.png", dpi=90)
    return f"{made}\n\n![Cosine by tokens per unit](real-moments-convergence.png)"


def costs(folders: Sequence[Path]) -> str:
    """Time and memory."""
    rows = []
    for folder in folders:
        found = read_json(folder / "cost.json")
        if found is None:
            rows.append([folder.name, MISSING, "", "", "", ""])
            continue
        for what in ("load", "trace", "edit", "moment"):
            if one := found.get(what):
                each = one.get("facts", 1)
                unit = (
                    f"1,000 tokens of {one['tokens']:,}" if what == "moment" else f"fact of {each}" * ("facts" in one)
                )
                share = one["tokens"] / 1000 if what == "moment" else each
                estimate = one.get("estimated_seconds")
                rows.append(
                    [folder.name, f"{what}, per {unit}" if unit else what, f"{one['cpu_seconds'] / share:.1f}",
                     f"{one['seconds'] / share:.1f}", "" if estimate is None else f"{estimate / share:.1f}",
                     f"{one['peak_memory_mb'] / 1000:.1f}"]
                )  # fmt: skip
    return table(["model", "what", "CPU-seconds", "seconds", "estimated", "peak memory, GB"], rows)
