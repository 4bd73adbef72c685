"""Two editors on the same records: is one better, or did it only draw the easier facts?

Both have edited the same facts, so that the difference is taken record by record: what makes a fact hard for both goes
out of it, and the interval of the difference is narrower than those of the two editors side by side.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from ...errors import UsageError
from ...given import Names, names_of
from ...public import public
from ..intervals import MIN_UNITS, percentile, resampling_weights
from .edit_metrics import AFTER, check_cluster, cluster_labels, harmonic_mean
from .evaluation import Evaluation
from .metric_table import METRICS, SHARE, Metric, chosen

_ROUNDING = 1e-12
"""Below this a difference of means is none."""


@public
def compare(
    a: Evaluation,
    b: Evaluation,
    metrics: Names | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    cluster: str = "record",
) -> pd.DataFrame:
    """The difference between two evaluations in each metric after the edit, by a paired bootstrap over records.

    Args:
        a, b: of the same facts.
        metrics: which; default: all that both have.
        level, resamples, seed: of the intervals; the same records are drawn for a and b and for every metric.
        cluster: "record", or "relation" to draw all records of a relation together; the records of a leaderboard can
            also be drawn by "group", those of one edit together.

    Returns:
        One row per metric, scores such as S included: metric, a, b, difference (a - b), low, high, other_sign (the
        share of resamples in which the difference is zero or has the other sign), n_records (with a value in both).
        Where all records agree on their difference, which resampling cannot see, the interval of a share is as wide as
        Clopper and Pearson's (see `bootstrap_share`).  Fewer than `MIN_UNITS` records (or clusters) have neither
        interval nor other_sign: NaN.

    Raises:
        UsageError: other records in a than in b, a metric that one of them lacks, or another cluster.
    """
    check_cluster(a.records, cluster)
    wide_a, wide_b = (_wide(evaluation) for evaluation in (a, b))
    _same_records(wide_a, wide_b)
    wide_b = wide_b.loc[wide_a.index]
    labels = cluster_labels(a.records, wide_a.index, cluster)
    weights = resampling_weights(len(wide_a), resamples, seed, labels)
    groups = len(set(labels)) if labels is not None else len(wide_a)
    rows = [
        (metric.name, *_difference(metric, wide_a, wide_b, weights, groups, level))
        for metric in _metrics(wide_a, wide_b, metrics)
    ]
    return pd.DataFrame(rows, columns=["metric", "a", "b", "difference", "low", "high", "other_sign", "n_records"])


def _wide(evaluation: Evaluation) -> pd.DataFrame:
    after = evaluation.records[evaluation.records["stage"] == AFTER]
    return after.pivot(index="record", columns="metric", values="value")


def _same_records(a: pd.DataFrame, b: pd.DataFrame) -> None:
    alone = sorted(set(a.index) ^ set(b.index))
    if alone:
        which = "first" if alone[0] in a.index else "second"
        raise UsageError(
            f"the record {alone[0]!r} is in the {which} evaluation only; compare editors that edited the same facts"
        )


def _metrics(a: pd.DataFrame, b: pd.DataFrame, names: Names | None) -> list[Metric]:
    """Those asked for, or all that both have."""

    def there(metric: Metric) -> bool:
        return all(part in a.columns and part in b.columns for part in metric.parts or (metric.name,))

    if names is None:
        return [metric for metric in METRICS.values() if there(metric)]
    wanted = names_of(names, "metrics")
    found = [metric for metric in chosen(wanted) if metric.name in wanted]
    lacking = [metric.name for metric in found if not there(metric)]
    if lacking:
        raise UsageError(f"one of the evaluations has no {lacking[0]}; evaluate both with it")
    return found


def _difference(
    metric: Metric,
    a: pd.DataFrame,
    b: pd.DataFrame,
    weights: Float[np.ndarray, "resamples records"],
    groups: int,
    level: float,
) -> tuple[float, float, float, float, float, float, int]:
    parts = list(metric.parts or (metric.name,))
    here, there = (wide[parts].to_numpy(float) for wide in (a, b))
    both = ~(np.isnan(here) | np.isnan(there))
    one = np.ones((1, len(here)))
    mean_a, mean_b = (_statistic(_means(values, both, one))[0] for values in (here, there))
    drawn = [_means(values, both, weights) for values in (here, there)]
    replicates = _statistic(drawn[0]) - _statistic(drawn[1])
    difference = float(mean_a - mean_b)
    n = int(both.all(axis=1).sum())
    units = min(n, groups)
    low, high = (float(end) for end in percentile(replicates, level, units))
    if metric.unit == SHARE:
        reach = 1 - ((1 - level) / 2) ** (1 / groups)
        constant = np.array([len(np.unique(d[m])) == 1 for d, m in zip((here - there).T, both.T, strict=True)])
        step = np.where(constant, reach, 0.0)
        whole_a, whole_b = (_means(values, both, one)[0] for values in (here, there))
        up_a, up_b = (_statistic(np.minimum(1, whole + step)) for whole in (whole_a, whole_b))
        down_a, down_b = (_statistic(np.maximum(0, whole - step)) for whole in (whole_a, whole_b))
        low = min(low, float(mean_a - up_b), float(down_a - mean_b))
        high = max(high, float(up_a - mean_b), float(mean_a - down_b))
    present = replicates[~np.isnan(replicates)]
    other = float(np.mean(present * np.sign(difference) <= _ROUNDING)) if len(present) else float("nan")
    if units < MIN_UNITS:
        low = high = other = float("nan")
    return float(mean_a), float(mean_b), difference, low, high, other, n


def _means(
    values: Float[np.ndarray, "records parts"],
    both: np.ndarray,
    weights: Float[np.ndarray, "resamples records"],
) -> Float[np.ndarray, "resamples parts"]:
    total, count = weights @ np.where(both, values, 0.0), weights @ both.astype(float)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _statistic(means: Float[np.ndarray, "*n parts"]) -> Float[np.ndarray, " *n"]:
    """A metric's mean, or the harmonic mean of a score's parts."""
    return means[..., 0] if means.shape[-1] == 1 else harmonic_mean(means)
