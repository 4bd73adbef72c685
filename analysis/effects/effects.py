"""Effects from the long table of a trace, one prompt at a time.

With P the metric (probability of the answer, say), following Meng et al. 2022 (section 2.1):

- total effect          TE = P(clean) - P(corrupted)
- indirect effect       IE = P(corrupted, one site restored) - P(corrupted)
- effect of an ablation      P(clean, one site ablated) - P(clean), below 0 where the site spoke for the answer

Each draw of noise is its own pair: the restored run is compared with the corrupted run of the same prompt
*and the same draw*, then draws are averaged.  Pairing leaves the mean as it is and shows the honest noise of
the difference.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from ...errors import MechinterpError, UsageError
from ...patching.traces.table import CELLS, Table
from ...public import public

SITE = ["component", "severed", "window"]
"""What a restored site is, besides its place."""

PLACE = ["layer", "head"]
"""Where it is, at a token."""


@public
def total_effects(table: Table, metric: str = "prob") -> pd.DataFrame:
    """One row per prompt: its clean and corrupted metric (mean over draws) and the total effect.

    Columns: prompt, relation, clean, corrupted, total_effect, se (standard error over draws; NaN for one
    draw), draws.
    """
    clean, corrupted = baselines(table, metric)
    by_prompt = corrupted.groupby("prompt", sort=False)["corrupted"]
    frame = clean.set_index("prompt").join(
        pd.DataFrame({"corrupted": _strict_mean(by_prompt), "se": by_prompt.sem(), "draws": by_prompt.size()})
    )
    if frame["draws"].isna().any():
        lost = str(frame.index[frame["draws"].isna()][0])
        raise MechinterpError(f"the prompt {lost!r} has a clean run but no corrupted one; trace it again")
    frame["draws"] = frame["draws"].astype(int)
    frame["total_effect"] = frame["clean"] - frame["corrupted"]
    return frame.reset_index()[["prompt", "relation", "clean", "corrupted", "total_effect", "se", "draws"]]


@public
def indirect_effects(table: Table, metric: str = "prob", prompt: str | None = None) -> pd.DataFrame:
    """One row per prompt and restored site: the indirect effect at every position and layer.

    Of a table of ablations, one row per ablated site: ablated minus clean (see `ablation_effects`).

    Columns: prompt, relation, component, severed, window, position, token, role, layer, head (-1: all of them),
    effect, se (standard error over draws, paired), draws.

    Args:
        table: the long table of a trace.
        metric: one of its columns: "prob", "log_prob", "logit_diff", "rank", "kl", or one of the user's own.
        prompt: only this prompt; all by default.

    Raises:
        UsageError: no such metric or prompt.
        MechinterpError: a restored run without the corrupted run of its draw.
    """
    clean, corrupted = baselines(table, metric)
    patched = table.frame[table.frame["run"].isin(CELLS)]
    if prompt is not None:
        known = table.frame["prompt"].unique()
        if prompt not in known:
            raise UsageError(f"no prompt {prompt!r} in the table; it has {_some(known)}")
        patched = patched[patched["prompt"] == prompt]
    paired = patched.merge(corrupted, on=["prompt", "draw"], how="left", indicator=True, validate="many_to_one")
    ablated = paired["run"] == "ablated"
    paired.loc[ablated, "corrupted"] = paired["prompt"].map(clean.set_index("prompt")["clean"])[ablated]
    paired.loc[ablated, "_merge"] = "both"
    if (paired["_merge"] != "both").any():
        lost = paired[paired["_merge"] != "both"].iloc[0]
        raise MechinterpError(
            f"draw {lost['draw']} of the prompt {lost['prompt']!r} was restored, its corrupted run is "
            "missing; trace the prompt again"
        )
    paired["effect"] = paired[metric] - paired["corrupted"]
    cell = ["prompt", "relation", *SITE, "position", "token", "role", *PLACE]
    grouped = paired.groupby(cell, sort=False, observed=True, dropna=False)["effect"]
    frame = pd.DataFrame({"effect": _strict_mean(grouped), "se": grouped.sem(), "draws": grouped.size()})
    return frame.reset_index()


@public
def ablation_effects(table: Table, metric: str = "prob", prompt: str | None = None) -> pd.DataFrame:
    """One row per prompt and ablated site: ablated minus clean, and which way the metric goes.

    Columns as of `indirect_effects`, and direction: "falls", "rises" or "stays".

    Raises:
        UsageError: nothing was ablated; no such metric or prompt.
    """
    ablated = table.frame["run"] == "ablated"
    if not ablated.any():
        raise UsageError("nothing was ablated in this table; trace a program with ablate(), or take indirect_effects()")
    rest = table.frame[ablated | (table.frame["run"] != "patched")]
    frame = indirect_effects(Table(rest, table.meta), metric, prompt)
    names = np.select([frame["effect"] < 0, frame["effect"] > 0], ["falls", "rises"], "stays")
    return frame.assign(direction=names)


@public
def role_effects(table: Table, metric: str = "prob") -> pd.DataFrame:
    """One row per prompt, site, role, layer and head: indirect effects averaged over the positions of a role.

    Averaging inside the prompt first lets a subject of five tokens weigh as much as one of three.
    Columns: prompt, relation, component, severed, window, role, layer, head, effect, positions (how many).
    """
    cells = indirect_effects(table, metric)
    key = ["prompt", "relation", *SITE, "role", *PLACE]
    grouped = cells.groupby(key, sort=False, observed=True, dropna=False)["effect"]
    return pd.DataFrame({"effect": _strict_mean(grouped), "positions": grouped.size()}).reset_index()


def baselines(table: Table, metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The clean row of every prompt, and the corrupted rows of every prompt and draw, as one metric each."""
    frame = table.frame
    if metric not in table.metrics or metric not in frame.columns:
        present = [name for name in table.metrics if name in frame.columns]
        raise UsageError(f"no metric {metric!r} in the table; it has {', '.join(present)}")
    clean = frame.loc[frame["run"] == "clean", ["prompt", "relation", metric]].drop_duplicates()
    corrupted = frame.loc[frame["run"] == "corrupted", ["prompt", "draw", metric]].drop_duplicates()
    for part, key in ((clean, ["prompt"]), (corrupted, ["prompt", "draw"])):
        twice = part.duplicated(key)
        if twice.any():
            raise MechinterpError(
                f"the prompt {part.loc[twice, 'prompt'].iloc[0]!r} stands in the table twice with different "
                "baseline runs; analyse the two traces apart, or give their prompts different ids"
            )
    lost = set(frame["prompt"]) - set(clean["prompt"])
    if lost:
        raise MechinterpError(f"the prompt {sorted(lost)[0]!r} has no clean run in the table; trace it again")
    return clean.rename(columns={metric: "clean"}), corrupted.rename(columns={metric: "corrupted"})


def _strict_mean(grouped: pd.api.typing.SeriesGroupBy) -> pd.Series:
    """Mean that is missing when any member is missing (pandas would pass over it in silence)."""
    return grouped.mean().where(grouped.count() == grouped.size(), np.nan)


def _some(names: Collection[str], limit: int = 5) -> str:
    shown = ", ".join(repr(str(name)) for name in list(names)[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
