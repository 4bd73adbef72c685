"""The metrics of an edit, from what the model answered before and after.

A record is a fact with its edit.  A metric's value of a record is the mean over the record's questions of the metric's
kind (see `metric_table`); "probability" is exp of the mean log-probability per token of the answer.  Over records:
averages, and scores, which are harmonic means of averages.

An edit that could not be made leaves the model as it is, and is counted so: its record has the unedited model's values
after the edit too, so that it lowers efficacy and not the number of records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from ...errors import UsageError
from ...facts.prompts import Fact
from ...given import Names, names_of
from ...public import public
from ..intervals import Intervals, bootstrap_mean, bootstrap_of_means, bootstrap_share
from .metric_table import COUNTERFACT, METRICS, SHARE, Metric, chosen

BEFORE, AFTER = "before", "after"

_TYPES = {"fact": int, "stage": str, "metric": str, "value": float, "questions": int}


def record_metrics(
    before: pd.DataFrame,
    after: pd.DataFrame,
    facts: Sequence[Fact],
    metrics: Sequence[str] = COUNTERFACT,
    failures: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Per-record metrics before and after an edit, from two answers of `ask_facts` to the same facts.

    Args:
        before: of the unedited model.
        after: of the edited one.
        facts: the facts.
        metrics: which ones; those without questions, and those that are not about questions, have no rows.
        failures: fact id -> why its edit could not be made.

    Returns:
        One row per record, stage ("before", "after") and metric: record, relation, stage, metric, value, questions (how
        many the value averages), failed (why there was no edit, else "").
    """
    parts = [pd.DataFrame({"fact": [], "stage": [], "metric": [], "value": [], "questions": []}).astype(_TYPES)]
    for metric in chosen(metrics):
        if metric.kind:
            for stage, answers in ((BEFORE, before), (AFTER, after)):
                parts.append(_per_record(_values(metric, before, answers, stage), answers, stage, metric.name))
    return named(pd.concat(parts, ignore_index=True), facts, failures)


def named(long: pd.DataFrame, facts: Sequence[Fact], failures: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Record, relation and failure in place of the number of the fact."""
    failed = failures or {}
    long = long.sort_values(["stage", "fact"], key=_order, kind="stable", ignore_index=True)
    long.insert(0, "record", [facts[i].id for i in long["fact"]])
    long.insert(1, "relation", [facts[i].relation for i in long["fact"]])
    return long.drop(columns="fact").assign(failed=[failed.get(record, "") for record in long["record"]])


def _order(column: pd.Series) -> pd.Series:
    return column == AFTER if column.name == "stage" else column


def _values(metric: Metric, before: pd.DataFrame, answers: pd.DataFrame, stage: str) -> pd.Series:
    """The metric of each question of its kind; nothing where it says something of the change only."""
    of_kind = answers[answers["kind"] == metric.kind]
    wanted, other = metric.answer, "true" if metric.answer == "new" else "new"
    if metric.rule in ("correct", "accuracy"):
        return of_kind[f"{metric.rule}_{wanted}"].dropna()
    if metric.rule == "preferred":
        gain = of_kind[f"log_prob_{wanted}"] - of_kind[f"log_prob_{other}"]
        return (gain.dropna() > 0).astype(float)
    if metric.rule == "margin":
        return (of_kind[f"prob_{wanted}"] - of_kind[f"prob_{other}"]).dropna()
    if stage == BEFORE:
        return of_kind["fact"].iloc[:0].astype(float)
    if metric.rule == "kept":
        return of_kind.loc[before.loc[of_kind.index, f"correct_{wanted}"] == 1, f"correct_{wanted}"]
    both = zip(before.loc[of_kind.index, f"top_{wanted}"], of_kind[f"top_{wanted}"], strict=True)
    return pd.Series([float(np.mean(np.equal(old, new))) for old, new in both], index=of_kind.index, dtype=float)


def harmonic_mean(values: Float[np.ndarray, "... parts"]) -> Float[np.ndarray, " *cells"]:
    """Harmonic mean over the last dimension; 0 where a part is 0, missing where a part is missing."""
    with np.errstate(divide="ignore"):
        return np.asarray(values.shape[-1] / (1 / values).sum(axis=-1))


@public
def summarise(
    records: pd.DataFrame,
    by: Names = (),
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
        cluster: "record" or "relation"; of a leaderboard also "group", the edit a record shares with others.

    Returns:
        One row per group, stage and metric (S included): estimate, low, high, n_records (with a value),
        n_given, n_failed (records whose edit could not be made; they are among the others).
    """
    check_cluster(records, cluster)
    options, within = (level, resamples, seed), names_of(by, "by")
    failed = records["failed"] if "failed" in records.columns else pd.Series("", index=records.index)
    rows = []
    for key, group in records.groupby([*within, "stage"], sort=False, observed=True):
        wide = group.pivot(index="record", columns="metric", values="value")
        labels = cluster_labels(group, wide.index, cluster)
        n_failed = int(group.loc[failed.loc[group.index] != "", "record"].nunique())
        for metric in METRICS.values():
            values = [wide[part].to_numpy(float) for part in (*metric.parts, metric.name) if part in wide.columns]
            if metric.parts and len(values) == len(metric.parts):
                found = _score(np.stack(values, axis=1), options, labels)
            elif not metric.parts and values:
                method = bootstrap_share if metric.unit == SHARE else bootstrap_mean
                found = method(values[0], *options, labels)
            else:
                continue
            rows.append((*key, metric.name, *_row(found), len(wide), n_failed))
    columns = ["stage", "metric", "estimate", "low", "high", "n_records", "n_given", "n_failed"]
    return pd.DataFrame(rows, columns=[*within, *columns])


def check_cluster(records: pd.DataFrame, cluster: str) -> None:
    """Look at whether records can be resampled by this.

    Raises:
        UsageError: they cannot.
    """
    there = ["record", "relation", *(["group"] if "group" in records.columns else [])]
    if cluster not in there:
        raise UsageError(f"cluster={cluster!r} is not a column to resample by; choose {' or '.join(there)}")
    if cluster == "relation" and (records["relation"] == "").any():
        unnamed = records.loc[records["relation"] == "", "record"].iloc[0]
        raise UsageError(f"the record {unnamed!r} has no relation; give every fact one, or use cluster='record'")


def cluster_labels(records: pd.DataFrame, order: pd.Index, cluster: str) -> list[str] | None:
    """What each record is drawn together by, in this order; None: each alone."""
    if cluster == "record":
        return None
    label = records.drop_duplicates("record").set_index("record")[cluster]
    return [str(label[record]) for record in order]


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


def _per_record(values: pd.Series, answers: pd.DataFrame, stage: str, metric: str) -> pd.DataFrame:
    grouped = values.groupby(answers.loc[values.index, "fact"], sort=True)
    frame = pd.DataFrame({"value": grouped.mean(), "questions": grouped.size()}).rename_axis("fact").reset_index()
    return frame.assign(stage=stage, metric=metric)[list(_TYPES)].astype(_TYPES)
