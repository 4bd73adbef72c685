"""Slow and obvious: synthetic traces with a known truth, and effects and intervals written as plain loops."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import pandas as pd

ROLES = ("first subject", "middle subject", "last subject", "first subsequent", "further", "last")


def roles_of(n_subject: int, n_after: int) -> list[str]:
    """ROME's six roles of a sentence that begins with its subject."""
    subject = (
        ["last subject"] if n_subject == 1 else ["first subject", *["middle subject"] * (n_subject - 2), "last subject"]
    )
    return [*subject, "first subsequent", *["further"] * (n_after - 2), "last"]


def true_effect(component: str, severed: str, role: str, layer: int) -> float:
    """An early MLP site at the last subject token that severing the MLPs destroys, and a late site at the
    end."""
    early = {"mlp": 0.20, "attn": 0.02, "resid": 0.25}[component] * np.exp(-((layer - 2) ** 2) / 2)
    late = {"mlp": 0.05, "attn": 0.22, "resid": 0.30}[component] * np.exp(-((layer - 6) ** 2) / 2)
    if role == "last subject":
        return float(early * {"none": 1.0, "mlp": 0.2, "attn": 0.9}[severed])
    return float(late * {"none": 1.0, "mlp": 0.8, "attn": 0.3}[severed]) if role == "last" else 0.0


def synthetic_frame(
    n_prompts: int = 24, n_layers: int = 8, draws: int = 4, window: int = 3, seed: int = 0,
    severed: bool = True, noise: float = 0.02, singles: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """A long trace table whose effects are `true_effect` plus noise; subjects of one to four tokens."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for i in range(n_prompts):
        n_subject, n_after = 1 + i % 4, 3 + i % 3
        roles = roles_of(n_subject, n_after)
        tokens = [f" tok{j}" for j in range(len(roles))]
        prompt, relation = f"p{i:03d}", f"r{i % 5}"
        clean = float(np.clip(0.85 + 0.05 * rng.standard_normal(), 0.6, 0.98))
        low = clean - 0.5 + 0.05 * rng.standard_normal(draws)
        scale = 1 + 0.2 * rng.standard_normal()
        rows.append(_row(prompt, relation, "clean", "none", 1, "none", -1, "", "", -1, 0, clean))
        rows += [
            _row(prompt, relation, "corrupted", "none", 1, "none", -1, "", "", -1, s, low[s]) for s in range(draws)
        ]
        sites = [("resid", 1, "none"), ("mlp", window, "none"), ("attn", window, "none")]
        if severed:
            sites += [("resid", 1, "mlp"), ("resid", 1, "attn")]
        if singles:
            sites += [("mlp", 1, "none"), ("attn", 1, "none")]
        for component, width, cut in sites:
            for position, role in enumerate(roles):
                for layer in range(n_layers):
                    truth = scale * true_effect(component, cut, role, layer)
                    truth = truth / 4 if singles and component != "resid" and width == 1 else truth
                    for s in range(draws):
                        value = low[s] + truth + noise * rng.standard_normal()
                        place = (position, tokens[position], role, layer, s)
                        rows.append(_row(prompt, relation, "patched", component, width, cut, *place, value))
    return pd.DataFrame(rows)


def _row(
    prompt: str, relation: str, run: str, component: str, window: int, severed: str, position: int,
    token: str, role: str, layer: int, draw: int, prob: float,
) -> dict[str, object]:  # fmt: skip
    return {
        "prompt": prompt, "relation": relation, "run": run, "component": component, "window": window,
        "severed": severed, "position": position, "token": token, "role": role, "layer": layer, "draw": draw,
        "prob": prob, "log_prob": float(np.log(max(prob, 1e-3))), "logit_diff": 10 * prob - 5, "rank": 1.0,
        "kl": abs(1 - prob),
    }  # fmt: skip


def indirect_effect(frame: pd.DataFrame, prompt: str, component: str, severed: str, position: int, layer: int) -> float:
    """Mean over draws of restored minus mean over draws of corrupted probability."""
    mine = frame[frame["prompt"] == prompt]
    low = [row.prob for row in mine.itertuples() if row.run == "corrupted"]
    cell = (component, severed, position, layer)
    patched = [row for row in mine.itertuples() if row.run == "patched"]
    high = [row.prob for row in patched if (row.component, row.severed, row.position, row.layer) == cell]
    return statistics.fmean(high) - statistics.fmean(low)


def average_indirect_effect(
    frame: pd.DataFrame, component: str, severed: str, role: str, layer: int
) -> tuple[float, int]:
    """First over the positions of the role within a prompt, then over the prompts that have it."""
    averages = []
    for prompt, mine in frame.groupby("prompt"):
        cells = mine[(mine["run"] == "patched") & (mine["component"] == component) & (mine["severed"] == severed)]
        positions = sorted(set(cells.loc[cells["role"] == role, "position"]))
        if positions:
            one = [indirect_effect(mine, str(prompt), component, severed, position, layer) for position in positions]
            averages.append(statistics.fmean(one))
    return statistics.fmean(averages), len(averages)


def bootstrap_mean_loop(
    values: Sequence[float], weights: Sequence[Sequence[float]], tail: float
) -> tuple[float, float, float]:
    """Percentile interval from the same resamples, one resample at a time; NaN values are passed over.

    `tail` is the share of resampled means below (and above) the interval.
    """
    present = [value for value in values if not np.isnan(value)]
    means = []
    for row in weights:
        sample = [v for v, times in zip(values, row, strict=True) for _ in range(int(times)) if not np.isnan(v)]
        if sample:
            means.append(statistics.fmean(sample))
    means.sort()
    return statistics.fmean(present), _quantile(means, tail), _quantile(means, 1 - tail)


def _quantile(ordered: Sequence[float], q: float) -> float:
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
