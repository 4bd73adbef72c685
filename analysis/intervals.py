"""An interval on every number: the bootstrap over prompts, and simultaneous bands over a grid.

The unit of inference is the prompt (or the record of an edit): draws of noise, positions and questions are
averaged inside it first, and units are then resampled with replacement.  A resample is nothing but a vector
of weights that counts how often each unit was drawn, so all resampled means of all cells are one matrix
product.  Units that belong together (prompts of one relation) are resampled as clusters.

A value may be missing (NaN) where a unit has no such cell, a subject of two tokens no middle one; means run
over the units that have it, in the data and in every resample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]

MIN_UNITS = 2
"""Units (or clusters) below which nothing can be said of others."""


@dataclass(frozen=True)
class Intervals:
    """Estimates with the ends of their intervals; one entry per cell (shape () for a single number).

    `low` and `high` are NaN where fewer than two units (or clusters) hold a value: a single prompt says
    nothing about other prompts.
    """

    estimate: Float[np.ndarray, " *cells"]
    low: Float[np.ndarray, " *cells"]
    high: Float[np.ndarray, " *cells"]
    n: Int[np.ndarray, " *cells"]
    level: float


def bootstrap_mean(
    values: Float[np.ndarray, "n ..."],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    cluster: Sequence[object] | None = None,
) -> Intervals:
    """The mean over units of every cell, with percentile bootstrap intervals (Efron 1979).

    Args:
        values: one row per unit; NaN where a unit has no value.
        level: coverage of each interval, alone.
        resamples: how many bootstrap samples are drawn.
        seed: of the resampling; the same units are drawn for every cell.
        cluster: a label per unit; units with equal labels are drawn together.

    With fewer than about 20 units a percentile interval is known to be somewhat too short.

    Raises:
        UsageError: no units, infinite values, a level outside (0, 1), as many labels as not units.
    """
    estimate, replicates, n, groups = _replicates(values, level, resamples, seed, cluster)
    low, high = percentile(replicates, level)
    enough = groups >= MIN_UNITS
    return Intervals(estimate, np.where(enough, low, np.nan), np.where(enough, high, np.nan), n, level)


def bootstrap_share(
    values: Float[np.ndarray, "n ..."],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    cluster: Sequence[object] | None = None,
) -> Intervals:
    """As `bootstrap_mean`, for shares between 0 and 1, with honest ends where all units agree on 0 or on 1.

    Resampling eight successes out of eight gives eight out of eight every time, an interval of no width.  There the
    ends are Clopper and Pearson's (1934), exact for units that are 0 or 1: eight of eight is [0.63, 1] at 0.95.
    """
    estimate, replicates, n, groups = _replicates(values, level, resamples, seed, cluster)
    low, high = percentile(replicates, level)
    reach = 1 - ((1 - level) / 2) ** (1 / np.maximum(groups, 1))
    low = np.where(estimate == 1, 1 - reach, low)
    high = np.where(estimate == 0, reach, high)
    enough = groups >= MIN_UNITS
    return Intervals(estimate, np.where(enough, low, np.nan), np.where(enough, high, np.nan), n, level)


def bootstrap_band(
    values: Float[np.ndarray, "n ..."],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    cluster: Sequence[object] | None = None,
) -> Intervals:
    """As `bootstrap_mean`, but the intervals of all cells hold *together* with probability `level`.

    A grid of 6 roles and 48 layers is 288 looks at the data; the max-T band (Romano and Wolf 2005) is as wide
    as the largest standardised deviation over the grid asks for: estimate ± c·se with c the `level` quantile
    over resamples of max over cells |resampled mean - mean| / se.
    """
    estimate, replicates, n, groups = _replicates(values, level, resamples, seed, cluster)
    low, high = max_t_band(estimate, np.where(groups >= MIN_UNITS, replicates, np.nan), level)
    return Intervals(estimate, low, high, n, level)


def bootstrap_of_means(
    values: Float[np.ndarray, "n columns"],
    statistic: Callable[[Float[np.ndarray, "... columns"]], Float[np.ndarray, " *cells"]],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    cluster: Sequence[object] | None = None,
) -> Intervals:
    """A number computed from several means (a harmonic mean, a ratio), with an interval by resampling units.

    `statistic` maps means over units, in the last dimension, to the number.  `n` counts the units with every
    column.
    """
    estimate, replicates, _, groups = _replicates(values, level, resamples, seed, cluster)
    low, high = percentile(statistic(replicates), level)
    whole = np.asarray((~np.isnan(values)).all(axis=1).sum())
    defined = bool(np.all(groups >= MIN_UNITS))
    nan = np.full_like(low, np.nan)
    return Intervals(np.asarray(statistic(estimate)), low if defined else nan, high if defined else nan, whole, level)


def resampling_weights(
    n: int, resamples: int, seed: int = 0, cluster: Sequence[object] | None = None
) -> Float[np.ndarray, "resamples n"]:
    """How often each of `n` units stands in each bootstrap sample."""
    rng = np.random.default_rng(seed)
    if cluster is None:
        return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    if len(cluster) != n:
        raise UsageError(f"{len(cluster)} cluster labels were given for {n} units; give one label per unit")
    labels, member = np.unique([str(label) for label in cluster], return_inverse=True)
    drawn = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=resamples).astype(float)
    return np.asarray(drawn[:, member])


def percentile(
    replicates: Float[np.ndarray, "resamples ..."], level: float
) -> tuple[Float[np.ndarray, " *cells"], Float[np.ndarray, " *cells"]]:
    """The ends of the middle `level` of the resampled values; missing resamples are passed over."""
    ends = ((1 - level) / 2, (1 + level) / 2)
    flat = replicates.reshape(len(replicates), -1)
    low, high = np.full(flat.shape[1], np.nan), np.full(flat.shape[1], np.nan)
    complete = ~np.isnan(flat).any(axis=0)
    if complete.any():
        low[complete], high[complete] = np.quantile(flat[:, complete], ends, axis=0)
    for cell in np.flatnonzero(~complete):
        present = flat[~np.isnan(flat[:, cell]), cell]
        if len(present):
            low[cell], high[cell] = np.quantile(present, ends)
    return low.reshape(replicates.shape[1:]), high.reshape(replicates.shape[1:])


def max_t_band(
    estimate: Float[np.ndarray, " *cells"], replicates: Float[np.ndarray, "resamples ..."], level: float
) -> tuple[Float[np.ndarray, " *cells"], Float[np.ndarray, " *cells"]]:
    """Ends of the simultaneous band; a cell that never varies (se = 0) has a band of no width."""
    flat = replicates.reshape(len(replicates), -1)
    centre = np.ravel(estimate)
    present = ~np.isnan(flat)
    count = np.maximum(present.sum(axis=0), 1)
    deviation = np.where(present, flat - centre, 0.0)
    se = np.sqrt((deviation**2).sum(axis=0) / count)
    se = np.where(se > 1e-12 * np.abs(centre), se, 0.0)  # rounding is no spread, and must not set the band's width
    standardised = np.divide(np.abs(deviation), se, out=np.zeros_like(deviation), where=se > 0)
    critical = np.quantile(standardised.max(axis=1), level) if flat.shape[1] else 0.0
    width = np.where(present.any(axis=0), critical * se, np.nan)
    return (centre - width).reshape(estimate.shape), (centre + width).reshape(estimate.shape)


def _replicates(
    values: Array, level: float, resamples: int, seed: int, cluster: Sequence[object] | None
) -> tuple[Array, Array, Array, Array]:
    """Means, resampled means, and per cell how many units and how many groups drawn together hold a value."""
    if values.ndim == 0 or len(values) == 0:
        raise UsageError("there is nothing to average: no prompt (or record) is left; check what was excluded and why")
    if not 0 < level < 1:
        raise UsageError(f"level={level} is not a coverage between 0 and 1; 0.95 is usual")
    if resamples < 1:
        raise UsageError(f"resamples={resamples} draws no bootstrap sample; 2000 is usual")
    if np.isinf(values).any():
        raise UsageError("an infinite value cannot be averaged; use a metric that is finite (prob, logit_diff)")
    flat = values.reshape(len(values), -1).astype(float)
    cells = values.shape[1:]
    present = ~np.isnan(flat)
    filled, mask = np.where(present, flat, 0.0), present.astype(float)
    weights = resampling_weights(len(flat), resamples, seed, cluster)
    replicates = _ratio(weights @ filled, weights @ mask).reshape(resamples, *cells)
    estimate = _ratio(filled.sum(axis=0), mask.sum(axis=0)).reshape(cells)
    n = present.sum(axis=0)
    if cluster is None:
        groups = n
    else:
        labels = np.asarray([str(label) for label in cluster])
        groups = sum((present[labels == label].any(axis=0) for label in np.unique(labels)), np.zeros_like(n))
    return estimate, replicates, n.reshape(cells), np.asarray(groups).reshape(cells)


def _ratio(total: Array, count: Array) -> Array:
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
