"""The metrics of an edit, from what the model answered before and after.

CounterFact's (Meng et al. 2022, section 3.4), with L(o|p) the mean negative log-probability per token of
answer o:

| metric | per record | over the questions |
|---|---|---|
| ES, EM | mean of 1[L(new) < L(true)], mean of exp(-L(new)) - exp(-L(true)) | the rewritten prompt |
| PS, PM | the same | paraphrases |
| NS, NM | mean of 1[L(true) < L(new)], mean of exp(-L(true)) - exp(-L(new)) | neighbourhood |
| ES_acc, PS_acc, NS_acc | mean of 1[every token of the wanted answer is the most probable one] | as above |
| S | harmonic mean of the *averages* of ES, PS and NS over records; 0 if one of them is 0 | |

and beside them what CounterFact does not ask: `same_subject` (the subject's other facts answered right),
`same_subject_kept` (of those answered right before the edit, the share still right) and `one_hop` (questions
a step further, answered as the fact states: where it states what held before the edit, as the bundled facts do, a
fall shows that the edit reaches that far, not that it gets there right).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from ..errors import UsageError
from ..prompts import Fact
from .intervals import Intervals, bootstrap_mean, bootstrap_of_means, bootstrap_share
from .questions import NEIGHBOURHOOD, ONE_HOP, PARAPHRASE, REWRITE, SAME_SUBJECT

METRICS = (
    "ES", "EM", "ES_acc", "PS", "PM", "PS_acc", "NS", "NM", "NS_acc",
    "same_subject", "same_subject_kept", "one_hop",
)  # fmt: skip
"""Per-record metrics; S exists only over records."""

MAGNITUDES = ("EM", "PM", "NM")
"""Differences of probabilities; all other metrics are shares between 0 and 1."""

S_PARTS = ("ES", "PS", "NS")


def record_metrics(before: pd.DataFrame, after: pd.DataFrame, facts: Sequence[Fact]) -> pd.DataFrame:
    """Per-record metrics before and after an edit, from two answers of `ask` to the same facts.

    Returns one row per record, stage ("before", "after") and metric: record, relation, stage, metric, value,
    questions (how many the value averages).  A fact without paraphrases has no row for PS.
    """
    parts = []
    for stage, answers in (("before", before), ("after", after)):
        for kind, prefix in ((REWRITE, "E"), (PARAPHRASE, "P"), (NEIGHBOURHOOD, "N")):
            of_kind = answers[answers["kind"] == kind]
            wanted, other = ("true", "new") if kind == NEIGHBOURHOOD else ("new", "true")
            gain = of_kind[f"log_prob_{wanted}"] - of_kind[f"log_prob_{other}"]
            parts += [
                _per_record(of_kind, (gain > 0).astype(float), stage, f"{prefix}S"),
                _per_record(of_kind, of_kind[f"prob_{wanted}"] - of_kind[f"prob_{other}"], stage, f"{prefix}M"),
                _per_record(of_kind, of_kind[f"correct_{wanted}"], stage, f"{prefix}S_acc"),
            ]
        for kind, metric in ((SAME_SUBJECT, "same_subject"), (ONE_HOP, "one_hop")):
            of_kind = answers[answers["kind"] == kind]
            parts.append(_per_record(of_kind, of_kind["correct_true"], stage, metric))
    known = after[(after["kind"] == SAME_SUBJECT) & (before["correct_true"] == 1)]
    parts.append(_per_record(known, known["correct_true"], "after", "same_subject_kept"))
    long = pd.concat([part for part in parts if len(part)], ignore_index=True)
    long.insert(0, "record", [facts[i].id for i in long["fact"]])
    long.insert(1, "relation", [facts[i].relation for i in long["fact"]])
    return long.drop(columns="fact")


def harmonic_mean(values: Float[np.ndarray, "... parts"]) -> Float[np.ndarray, " *cells"]:
    """Harmonic mean over the last dimension; 0 where a part is 0, missing where a part is missing."""
    with np.errstate(divide="ignore"):
        return np.asarray(values.shape[-1] / (1 / values).sum(axis=-1))


def summarise(
    records: pd.DataFrame,
    by: Sequence[str] = (),
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    cluster: str = "record",
) -> pd.DataFrame:
    """Every metric with its interval: bootstrap over records, or over relations with cluster="relation".

    Args:
        records: per-record metrics, as `record_metrics` makes them.
        by: further columns to summarise within, such as ("layer",).
        level, resamples, seed: of the intervals; the same records are drawn for every metric.
        cluster: "record" or "relation".

    Returns:
        One row per group, stage and metric (S included): estimate, low, high, n_records (with a value),
        n_given.
    """
    if cluster not in ("record", "relation"):
        raise UsageError(f"cluster={cluster!r} is not a column to resample by; choose record or relation")
    if cluster == "relation" and (records["relation"] == "").any():
        unnamed = records.loc[records["relation"] == "", "record"].iloc[0]
        raise UsageError(f"the record {unnamed!r} has no relation; give every fact one, or use cluster='record'")
    options = (level, resamples, seed)
    rows = []
    for key, group in records.groupby([*by, "stage"], sort=False, observed=True):
        wide = group.pivot(index="record", columns="metric", values="value")
        relation = group.drop_duplicates("record").set_index("record")["relation"]
        labels = [relation[record] for record in wide.index] if cluster == "relation" else None
        for metric in METRICS:
            if metric in wide.columns:
                method = bootstrap_mean if metric in MAGNITUDES else bootstrap_share
                rows.append((*key, metric, *_row(method(wide[metric].to_numpy(float), *options, labels)), len(wide)))
        if all(part in wide.columns for part in S_PARTS):
            rows.append((*key, "S", *_row(_score(wide[list(S_PARTS)].to_numpy(float), options, labels)), len(wide)))
    return pd.DataFrame(rows, columns=[*by, "stage", "metric", "estimate", "low", "high", "n_records", "n_given"])


def _score(
    parts: Float[np.ndarray, "records parts"], options: tuple[float, int, int], labels: Sequence[object] | None
) -> Intervals:
    """S; where the records agree on a part, which resampling cannot see, S reaches as far as that part may."""
    found = bootstrap_of_means(parts, harmonic_mean, *options, labels)
    shares = bootstrap_share(parts, *options, labels)
    lowest = harmonic_mean(np.where(shares.estimate == 1, shares.low, shares.estimate))
    highest = harmonic_mean(np.where(shares.estimate == 0, shares.high, shares.estimate))
    low, high = np.minimum(found.low, lowest), np.maximum(found.high, highest)
    return replace(found, low=np.asarray(low), high=np.asarray(high))


def _row(found: Intervals) -> tuple[float, float, float, int]:
    return float(found.estimate), float(found.low), float(found.high), int(found.n)


def _per_record(of_kind: pd.DataFrame, values: pd.Series, stage: str, metric: str) -> pd.DataFrame:
    grouped = values.groupby(of_kind["fact"], sort=True)
    frame = pd.DataFrame({"value": grouped.mean(), "questions": grouped.size()}).rename_axis("fact").reset_index()
    frame.insert(1, "stage", stage)
    frame.insert(2, "metric", metric)
    return frame
