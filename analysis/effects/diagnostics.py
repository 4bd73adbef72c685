"""Warnings as values: what a reader must know before believing a trace.

Nothing is printed.  `diagnose` looks at the long table and returns a `Finding` for each thing that weakens
the conclusion, so that a test can assert on it, a report can print it and a figure can carry it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...patching.traces.table import Table
from ...public import public
from ..intervals import FEW_UNITS, MIN_UNITS
from .effects import indirect_effects, total_effects
from .windows import window_against_singles

SMALL_TOTAL_EFFECT = 0.01
"""In probability: below this there is hardly anything to restore."""
NOISE_FLOOR = 3.0
"""A total effect under this many standard errors (over draws) is not told apart from noise."""
SATURATED = 0.99
"""A clean probability above this hides what a site adds."""
FEW_DRAWS = 10
INFLATED = 1.5
"""A window doing this many times the sum of its layers is reported."""


@dataclass(frozen=True)
class Finding:
    """One thing to know before believing a number.

    `code` is stable, for programs; `sentence` is for people; `value` is the measured quantity; `prompts` are
    those concerned, where it concerns single prompts.
    """

    code: str
    sentence: str
    value: float
    prompts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.sentence


@public
def diagnose(table: Table) -> list[Finding]:
    """Everything that weakens a conclusion from this table, the gravest first; an empty list is good news."""
    findings = [
        *_clean_predictions(table),
        *_total_effects(table),
        *_saturation(table),
        *_sample_sizes(table),
        *_resolution(table),
        *_windows(table),
        *_unchanged(table),
    ]
    known = {finding.sentence for finding in findings}
    carried = [Finding("from-the-run", str(text), float("nan")) for text in table.meta.get("warnings", [])]
    return findings + [finding for finding in carried if finding.sentence not in known]


def _clean_predictions(table: Table) -> list[Finding]:
    clean = table.frame[table.frame["run"] == "clean"]
    wrong = clean[clean["rank"] > 0]
    if wrong.empty:
        return []
    sentence = (
        f"{_prompts(len(wrong))} of {len(clean)} are answered wrongly by the clean model: what is restored "
        "there is not the knowledge of the answer; trace only prompts the model knows"
    )
    return [Finding("clean-prediction-wrong", sentence, len(wrong) / len(clean), tuple(wrong["prompt"]))]


def _total_effects(table: Table) -> list[Finding]:
    if not (table.frame["run"] != "ablated").all():  # nothing is restored, and nothing was to be lost before
        return []
    totals = total_effects(table)
    effect, floor = totals["total_effect"], NOISE_FLOOR * totals["se"].fillna(0.0)
    weak = totals[(effect < SMALL_TOTAL_EFFECT) | (effect < floor)]
    if weak.empty:
        return []
    sentence = (
        f"{_prompts(len(weak))} of {len(totals)} lose almost nothing under the corruption (total effect "
        f"under {SMALL_TOTAL_EFFECT:g}, or under {NOISE_FLOOR:g} standard errors of its draws): nothing is "
        "there to restore; raise the noise or leave them out"
    )
    return [Finding("small-total-effect", sentence, len(weak) / len(totals), tuple(weak["prompt"]))]


def _saturation(table: Table) -> list[Finding]:
    clean = table.frame[table.frame["run"] == "clean"]
    full = clean[clean["prob"] > SATURATED]
    if len(full) <= len(clean) / 2:
        return []
    sentence = (
        f"{_prompts(len(full))} of {len(clean)} have a clean probability above {SATURATED}: probability "
        "saturates and hides part of the effect; look at logit_diff as well"
    )
    return [Finding("saturated-metric", sentence, len(full) / len(clean), tuple(full["prompt"]))]


def _sample_sizes(table: Table) -> list[Finding]:
    findings = []
    corrupted = table.frame[table.frame["run"] == "corrupted"]
    draws = int(corrupted.groupby("prompt", observed=True).size().min())
    drawn = table.meta.get("noise_level", "unknown") is not None  # None: nothing random was put in
    if draws < FEW_DRAWS and drawn:
        sentence = f"only {_count(draws, 'draw')} of noise per prompt; {FEW_DRAWS} or more keep a cell's noise small"
        findings.append(Finding("few-draws", sentence, draws))
    prompts = corrupted["prompt"].nunique()
    if prompts < FEW_UNITS:
        said = (
            f"no interval over prompts is given below {MIN_UNITS}"
            if prompts < MIN_UNITS
            else f"intervals over prompts are rough below {FEW_UNITS}"
        )
        sentence = f"only {_count(prompts, 'prompt')}: {said}"
        findings.append(Finding("few-prompts", sentence, prompts))
    return findings


def _resolution(table: Table) -> list[Finding]:
    """Half precision: effects of single cells below the last digit of a logit are rounding."""
    step = float(table.meta.get("resolution", 0.0))
    if table.meta.get("dtype") not in ("bfloat16", "float16"):
        return []
    effects = indirect_effects(table)["effect"].abs()
    below = float((effects[effects > 0] < step).mean()) if (effects > 0).any() else 1.0
    return [
        Finding(
            "resolution",
            f"the model ran in {table.meta['dtype']}: one step of a logit changes a probability by up to {step:.2g}; "
            f"{below:.0%} of the cells' effects other than zero are smaller; load it with dtype=float32 to tell them "
            "from rounding",
            step,
        )
    ]


def _windows(table: Table) -> list[Finding]:
    patched = table.frame[table.frame["run"] == "patched"]
    wide = patched[patched["window"] > 1]
    if wide.empty:
        return []
    compared = window_against_singles(table)
    alone = sorted(set(wide["component"].unique()) - set(compared["component"].unique()))
    findings = []
    if alone:
        sentence = (
            f"{' and '.join(alone)}: windows of {int(wide['window'].max())} layers were restored without the "
            "single layers; a window can do more than its layers together, so trace window 1 as well"
        )
        findings.append(Finding("window-without-singles", sentence, float(wide["window"].max())))
    if not compared.empty:
        # Where effects are small their ratio means nothing, so each site is judged at its strongest window.
        peak = compared.loc[compared.groupby(["component", "severed", "window"], observed=True)["windowed"].idxmax()]
        for row in peak[peak["inflation"] > INFLATED].itertuples():
            sentence = (
                f"{row.component}, window {row.window}: at its peak ({row.role}, layer {row.layer}) "
                f"the window restores {row.windowed:.3f}, its layers one by one {row.sum_of_singles:.3f} in sum "
                f"({row.inflation:.1f} times as much); do not read the window's height as one layer's"
            )
            findings.append(Finding("window-inflation", sentence, float(row.inflation)))
    return findings


def _unchanged(table: Table) -> list[Finding]:
    effects = indirect_effects(table)
    if effects.empty:
        return []
    still = effects["effect"].to_numpy() == 0.0
    share = float(np.mean(still))
    if not still.any():
        return []
    sentence = (
        f"{int(still.sum())} of {len(still)} restored cells changed nothing at all (tokens before the first "
        "corrupted one never do); their zero is exact, not measured"
    )
    return [Finding("unchanged-cells", sentence, share, tuple(pd.unique(effects.loc[still, "prompt"])))]


def _prompts(n: int) -> str:
    return _count(n, "prompt")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
