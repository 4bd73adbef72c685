"""An interval on every number: the bootstrap over prompts, and simultaneous bands over a grid.

The unit of inference is the prompt (or the record of an edit): draws of noise, positions and questions are
averaged inside it first, and units are then resampled with replacement.  A resample is nothing but a vector
of weights that counts how often each unit was drawn, so all resampled means of all cells are one matrix
product.  Units that belong together (prompts of one relation) are resampled as clusters.

A value may be missing (NaN) where a unit has no such cell, a subject of two tokens no middle one; means run
over the units that have it, in the data and in every resample.

What few units say: below `MIN_UNITS` nothing (no interval: NaN), below `FEW_UNITS` an interval whose ends stand further
out than the plain percentile's, which is too short there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import norm, t

from ..errors import UsageError
from ..given import number, seed_of, whole

Array = np.ndarray[Any, np.dtype[Any]]

MIN_UNITS = 5
"""Units (or clusters) below which nothing is said of others: a 95 % interval of two would hold their mean in 52 % of
cases, of four in 80 %.  The one limit of all of analysis/."""

FEW_UNITS = 20
"""Units (or clusters) below which a percentile interval is too short and its ends are moved out (see `percentile`)."""


@dataclass(frozen=True)
class Intervals:
    """Estimates with the ends of their intervals; one entry per cell (shape () for a single number).

    `low` and `high` are NaN where fewer than `MIN_UNITS` units (or clusters) hold a value: so few prompts say nothing
    about other prompts.
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

    Below `FEW_UNITS` units the ends are those of `percentile` for few; below `MIN_UNITS` there are none.

    Raises:
        UsageError: no units, infinite values, a level outside (0, 1), as many labels as not units.
    """
    estimate, replicates, n, groups = _replicates(values, level, resamples, seed, cluster)
    return Intervals(estimate, *percentile(replicates, level, groups), n, level)


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
    low, high = percentile(replicates, level, groups)
    reach = 1 - ((1 - level) / 2) ** (1 / np.maximum(groups, 1))
    enough = groups >= MIN_UNITS
    low = np.where(enough & (estimate == 1), 1 - reach, low)
    high = np.where(enough & (estimate == 0), reach, high)
    return Intervals(estimate, low, high, n, level)


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
    return Intervals(estimate, *max_t_band(estimate, replicates, level, groups), n, level)


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
    values = numbers(values)
    estimate, replicates, _, groups = _replicates(values, level, resamples, seed, cluster)
    ends = percentile(statistic(replicates), level, int(groups.min()))
    whole = np.asarray((~np.isnan(values)).all(axis=1).sum())
    return Intervals(np.asarray(statistic(estimate)), *ends, whole, level)


def resampling_weights(
    n: int, resamples: int, seed: int = 0, cluster: Sequence[object] | None = None
) -> Float[np.ndarray, "resamples n"]:
    """How often each of `n` units stands in each bootstrap sample."""
    if whole(resamples, "resamples") < 1:
        raise UsageError(f"resamples={resamples} draws no bootstrap sample; 2000 is usual")
    rng = np.random.default_rng(seed_of(seed))
    if cluster is None:
        return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)
    if len(cluster) != n:
        raise UsageError(f"{len(cluster)} cluster labels were given for {n} units; give one label per unit")
    labels, member = np.unique([str(label) for label in cluster], return_inverse=True)
    drawn = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=resamples).astype(float)
    return np.asarray(drawn[:, member])


def percentile(
    replicates: Float[np.ndarray, "resamples ..."], level: float, groups: Int[np.ndarray, ...] | int
) -> tuple[Float[np.ndarray, " *cells"], Float[np.ndarray, " *cells"]]:
    """The ends of the middle `level` of the resampled values; missing resamples are passed over.

    Resampled means of n units spread by (n-1)/n of the variance that they should, and by a normal law where Student's
    is called for; so with few units the ends are quantiles further out (the expanded percentile interval of Hesterberg
    2015, section 3.3): at Φ(-√(n/(n-1)) t) in place of (1 - level)/2, t the quantile of Student's law there.

    Args:
        replicates: resampled values.
        level: coverage.
        groups: per cell (or for all) how many units, or clusters, were drawn: NaN below `MIN_UNITS`, the plain
            percentiles from `FEW_UNITS` on.
    """
    check_level(level)
    cells = replicates.shape[1:]
    flat, counts = replicates.reshape(len(replicates), -1), np.broadcast_to(groups, cells).ravel()
    low, high = np.full(flat.shape[1], np.nan), np.full(flat.shape[1], np.nan)
    whole = ~np.isnan(flat).any(axis=0)
    for count in np.unique(np.minimum(counts, FEW_UNITS)[counts >= MIN_UNITS]):
        ends, here = _ends(int(count), level), np.minimum(counts, FEW_UNITS) == count
        complete = here & whole
        if complete.any():
            low[complete], high[complete] = np.quantile(flat[:, complete], ends, axis=0)
        for cell in np.flatnonzero(here & ~whole):
            present = flat[~np.isnan(flat[:, cell]), cell]
            if len(present):
                low[cell], high[cell] = np.quantile(present, ends)
    return low.reshape(cells), high.reshape(cells)


def _ends(units: int, level: float) -> tuple[float, float]:
    """Which quantiles of the resampled values are the ends, for so many units (`FEW_UNITS`: that many or more)."""
    if units >= FEW_UNITS:
        return (1 - level) / 2, (1 + level) / 2
    tail = float(norm.cdf(-np.sqrt(units / (units - 1)) * t.ppf((1 + level) / 2, units - 1)))
    return tail, 1 - tail


def max_t_band(
    estimate: Float[np.ndarray, " *cells"],
    replicates: Float[np.ndarray, "resamples ..."],
    level: float,
    groups: Int[np.ndarray, " *cells"],
) -> tuple[Float[np.ndarray, " *cells"], Float[np.ndarray, " *cells"]]:
    """Ends of the simultaneous band; a cell that never varies (se = 0) has a band of no width.

    With few units (`groups`, per cell) the band is as much wider as a single interval is.
    """
    flat = np.where(groups >= MIN_UNITS, replicates, np.nan).reshape(len(replicates), -1)
    centre = np.ravel(estimate)
    present = ~np.isnan(flat)
    count = np.maximum(present.sum(axis=0), 1)
    deviation = np.where(present, flat - centre, 0.0)
    se = np.sqrt((deviation**2).sum(axis=0) / count)
    se = np.where(se > 1e-12 * np.abs(centre), se, 0.0)  # rounding is no spread, and must not set the band's width
    standardised = np.divide(np.abs(deviation), se, out=np.zeros_like(deviation), where=se > 0)
    critical = np.quantile(standardised.max(axis=1), level) if flat.shape[1] else 0.0
    width = np.where(present.any(axis=0), critical * se * _widened(np.ravel(groups), level), np.nan)
    return (centre - width).reshape(estimate.shape), (centre + width).reshape(estimate.shape)


def _widened(groups: Int[np.ndarray, " cells"], level: float) -> Float[np.ndarray, " cells"]:
    """How much wider the interval of so many units is than that of as many as one likes: 1 from `FEW_UNITS` on."""
    n = np.maximum(groups, MIN_UNITS)
    few = np.sqrt(n / (n - 1)) * t.ppf((1 + level) / 2, n - 1) / norm.ppf((1 + level) / 2)
    return np.where(groups < FEW_UNITS, few, 1.0)


def with_interval(row: pd.Series, form: str = ".3f", scale: float = 1.0) -> str:
    """A number with its interval as it is printed; alone where it has none (see `why_no_interval`).

    Args:
        row: with estimate, low and high.
        form: of each number.
        scale: what they are multiplied with: 100 for per cent.
    """
    estimate, low, high = (format(scale * float(row[name]), form) for name in ("estimate", "low", "high"))
    return estimate if pd.isna(row["low"]) or pd.isna(row["high"]) else f"{estimate} [{low}, {high}]"


def why_no_interval(units: int, what: str) -> str:
    """Why numbers stand without an interval, or an empty string where they have one.

    Args:
        units: how many there are.
        what: their name in the singular, "prompt" say.
    """
    if units >= MIN_UNITS:
        return ""
    return (
        f"no intervals: {units} {what}{'' if units == 1 else 's'}, and fewer than {MIN_UNITS} say too little of others"
    )


def numbers(values: object) -> Array:
    """An array of numbers from whatever holds them: a list, a column, a tensor.

    Raises:
        UsageError: it holds something else.
    """
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"values is {values!r:.60}, which holds no numbers; give an array, one row per unit"
        ) from error


def check_level(level: float) -> None:
    """Refuse what is no coverage.

    Raises:
        UsageError: no number between 0 and 1.
    """
    if not 0 < number(level, "level") < 1:
        raise UsageError(f"level={level} is not a coverage between 0 and 1; 0.95 is usual")


def _replicates(
    values: Array, level: float, resamples: int, seed: int, cluster: Sequence[object] | None
) -> tuple[Array, Array, Array, Array]:
    """Means, resampled means, and per cell how many units and how many groups drawn together hold a value."""
    values = numbers(values)
    if values.ndim == 0 or len(values) == 0:
        raise UsageError("there is nothing to average: no prompt (or record) is left; check what was excluded and why")
    check_level(level)
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
