"""Does the forecast hold?  Rank correlation of forecast risk and measured damage, with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from ...errors import UsageError
from ...public import public
from ..intervals import bootstrap_mean, percentile, resampling_weights
from .known_facts import EDITED

ALL_PAIRS = "all pairs"
WITHIN = "within an edit"

_AT_ONCE = 1 << 22
"""Entries of a block of resampling weights: 32 MB."""

_KEYS = ["edit", "record"]


@public
def forecast_correlation(
    forecast: pd.DataFrame,
    damage: pd.DataFrame,
    *,
    predictor: str = "risk",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman's rank correlation of what was forecast with what then happened, over all facts but the edited ones.

    Three outcomes are set beside the forecast: "change", the size of the change of the fact's log-probability, which is
    what the forecast speaks of; "fall", the change with its sign, since an edit also raises some answers; and "lost",
    whether a fact that was answered is so no more.

    Args:
        forecast: of `forecast`.
        damage: of `diff`, of the same edits and facts.
        predictor: "risk" or "overlap".
        level, resamples, seed: of the bootstrap interval.  Edits are resampled, with all their facts; facts, where
            there is one edit.  Fewer than five edits (of one edit: facts) have no interval.

    Returns:
        One row per scope and outcome: scope ("all pairs" of an edit and a fact together; "within an edit", the mean of
        the edits' own correlations), outcome, estimate, low, high, n_pairs, n_edits.  NaN where nothing varies.

    Raises:
        UsageError: the two tables are not of the same edits and facts, none but edited facts, or another predictor.
    """
    if predictor not in ("risk", "overlap"):
        raise UsageError(f"predictor={predictor!r} is no column of a forecast; choose risk or overlap")
    both = _joined(forecast, damage)
    outcomes = {
        "change": both["fall"].abs(),
        "fall": both["fall"],
        "lost": (both["correct_before"].astype(bool) & ~both["correct_after"].astype(bool)).astype(float),
    }
    edit, x = both["edit"].to_numpy(), both[predictor].to_numpy(float)
    n_edits = len(np.unique(edit))
    cluster = None if n_edits == 1 else [int(label) for label in edit]
    ys = [column.to_numpy(float) for column in outcomes.values()]
    blocks = [weighted_spearman(x, ys, block) for block in _weights(len(x), cluster, resamples, seed)]
    units = len(x) if cluster is None else n_edits
    lows, highs = percentile(np.concatenate(blocks, axis=1).T, level, units)
    rows = []
    for outcome, y, low, high in zip(outcomes, ys, lows, highs, strict=True):
        rows.append((ALL_PAIRS, outcome, _spearman(x, y), float(low), float(high), len(x), n_edits))
        own = np.array([_spearman(x[edit == one], y[edit == one]) for one in np.unique(edit)])
        if n_edits > 1 and not np.isnan(own).all():
            found = bootstrap_mean(own, level, resamples, seed)
            rows.append((WITHIN, outcome, float(found.estimate), float(found.low), float(found.high), len(x), n_edits))
    return pd.DataFrame(rows, columns=["scope", "outcome", "estimate", "low", "high", "n_pairs", "n_edits"])


def weighted_spearman(
    x: Float[np.ndarray, " n"], ys: Sequence[Float[np.ndarray, " n"]], weights: Float[np.ndarray, "resamples n"]
) -> Float[np.ndarray, "ys resamples"]:
    """Spearman's correlation of samples that hold each pair as often as its weight says, ties at their middle rank.

    The order of the values is the same in every resample; only how many stand below each value differs.  So a resample
    costs a cumulative sum, and no sorting.
    """
    total = weights.sum(axis=1, keepdims=True)

    def centred(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "resamples n"]:
        ranks = _weighted_ranks(values, weights)
        return ranks - (weights * ranks).sum(axis=1, keepdims=True) / total

    a = centred(x)
    weighted, aa = weights * a, (weights * a * a).sum(axis=1)
    found = [_correlation((weighted * b).sum(axis=1), aa, (weights * b * b).sum(axis=1)) for b in map(centred, ys)]
    return np.stack(found)


def _weighted_ranks(
    values: Float[np.ndarray, " n"], weights: Float[np.ndarray, "resamples n"]
) -> Float[np.ndarray, "resamples n"]:
    """The middle rank of each value, less one half."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    of_value = np.add.reduceat(weights[:, order], starts, axis=1)
    return np.asarray((of_value.cumsum(axis=1) - of_value / 2)[:, place])


def _correlation(
    ab: Float[np.ndarray, " *n"], aa: Float[np.ndarray, " *n"], bb: Float[np.ndarray, " *n"]
) -> Float[np.ndarray, " *n"]:
    """NaN where one of the two does not vary."""
    size = np.sqrt(aa * bb)
    return np.divide(ab, size, out=np.full_like(size, np.nan), where=size > 0)


def _spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    return float(_correlation(np.asarray([a @ b]), np.asarray([a @ a]), np.asarray([b @ b]))[0])


def _weights(n: int, cluster: list[int] | None, resamples: int, seed: int) -> Iterator[Float[np.ndarray, "some n"]]:
    """Resampling weights in blocks that fit into memory."""
    if cluster is None:
        drawn, member = resampling_weights(n, resamples, seed), np.arange(n)
    else:
        labels, member = np.unique(cluster, return_inverse=True)
        drawn = resampling_weights(len(labels), resamples, seed)
    size = max(1, _AT_ONCE // n)
    for start in range(0, resamples, size):
        yield drawn[start : start + size][:, member]


def _joined(forecast: pd.DataFrame, damage: pd.DataFrame) -> pd.DataFrame:
    """Both tables side by side, without the edited facts."""
    here, there = (set(map(tuple, table[_KEYS].to_numpy())) for table in (forecast, damage))
    differing = sorted(here ^ there, key=str)
    if differing:
        edit, record = differing[0]
        raise UsageError(
            f"forecast and damage are not of the same edits and facts (edit {edit} and {record!r} are in one of them); "
            "make both with the same edits, facts, sample and seed"
        )
    joined = forecast.merge(damage[[*_KEYS, "fall", "correct_before", "correct_after"]], on=_KEYS, validate="1:1")
    joined = joined[joined["kin"] != EDITED]
    if joined.empty:
        raise UsageError("all facts are the edited ones; forecast and ask others too")
    return joined
