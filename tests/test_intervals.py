"""The bootstrap: against a loop, against a known truth, and at its edges."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from oracles.effects_oracle import bootstrap_mean_loop
from scipy.stats import binomtest
from scipy.stats import t as student

from mechinterp.analysis import bootstrap_band, bootstrap_mean, bootstrap_of_means, bootstrap_share
from mechinterp.analysis.evaluation.edit_metrics import harmonic_mean
from mechinterp.analysis.intervals import FEW_UNITS, MIN_UNITS, resampling_weights, why_no_interval, with_interval
from mechinterp.errors import UsageError


def tail(units: int, level: float) -> float:
    """Where Hesterberg (2015) puts the ends of few units, and everybody those of many."""
    if units >= FEW_UNITS:
        return (1 - level) / 2
    return NormalDist().cdf(-math.sqrt(units / (units - 1)) * student.isf((1 - level) / 2, units - 1))


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("size", [17, 40])
def test_it_agrees_with_a_loop_over_the_same_resamples(clustered: bool, size: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(size, 3))
    values[rng.random((size, 3)) < 0.3] = np.nan
    labels = [f"r{i % 6}" for i in range(size)]
    cluster = labels if clustered else None
    found = bootstrap_mean(values, level=0.9, resamples=300, seed=5, cluster=cluster)
    weights = resampling_weights(size, 300, seed=5, cluster=cluster).tolist()
    for cell in range(3):
        there = np.isfinite(values[:, cell])
        units = len({label for label, one in zip(labels, there, strict=True) if one}) if clustered else there.sum()
        expected = bootstrap_mean_loop(values[:, cell].tolist(), weights, tail(units, 0.9))
        got = (found.estimate[cell], found.low[cell], found.high[cell])
        assert np.allclose(got, expected, rtol=0, atol=1e-12)
        assert found.n[cell] == np.isfinite(values[:, cell]).sum()


def test_a_resample_draws_as_many_units_and_whole_clusters() -> None:
    assert (resampling_weights(30, 50, seed=1).sum(axis=1) == 30).all()
    labels = ["a"] * 3 + ["b"] * 5 + ["c"] * 2
    weights = resampling_weights(10, 50, seed=1, cluster=labels)
    for start, end in ((0, 3), (3, 8), (8, 10)):
        assert (weights[:, start:end] == weights[:, start : start + 1]).all()
    assert (weights[:, [0, 3, 8]].sum(axis=1) == 3).all()


def test_the_seed_fixes_the_interval() -> None:
    values = np.random.default_rng(0).normal(size=(40, 2))
    one, same, other = (bootstrap_mean(values, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.low, same.low)
    assert not np.array_equal(one.low, other.low)


def test_coverage_is_near_the_level() -> None:
    rng = np.random.default_rng(3)
    samples = rng.exponential(size=(50, 400))  # 400 independent experiments of 50 prompts, true mean 1, skewed
    found = bootstrap_mean(samples, level=0.95, resamples=500, seed=0)
    coverage = np.mean((found.low <= 1) & (found.high >= 1))
    assert 0.89 <= coverage <= 0.97


def test_a_band_covers_the_whole_grid_where_single_intervals_do_not() -> None:
    rng = np.random.default_rng(4)
    together = alone = 0
    for trial in range(100):
        values = rng.normal(size=(60, 40))  # true mean 0 in all 40 cells
        band = bootstrap_band(values, level=0.9, resamples=400, seed=trial)
        single = bootstrap_mean(values, level=0.9, resamples=400, seed=trial)
        together += bool(((band.low <= 0) & (band.high >= 0)).all())
        alone += bool(((single.low <= 0) & (single.high >= 0)).all())
    assert together >= 80
    assert alone <= 10


def test_clusters_widen_the_interval_when_units_of_a_cluster_are_alike() -> None:
    rng = np.random.default_rng(5)
    values = np.repeat(rng.normal(size=8), 10)
    labels = [str(i // 10) for i in range(80)]
    plain, clustered = bootstrap_mean(values), bootstrap_mean(values, cluster=labels)
    assert clustered.high - clustered.low > 2 * (plain.high - plain.low)


METHODS = {
    "mean": bootstrap_mean,
    "share": bootstrap_share,
    "band": bootstrap_band,
    "of means": lambda values, **options: bootstrap_of_means(values[:, None], lambda means: means[..., 0], **options),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("units", range(1, 8))
def test_few_units_or_clusters_have_no_interval(method: str, units: int) -> None:
    enough = units >= MIN_UNITS
    values = np.linspace(0.1, 0.9, units)
    found = METHODS[method](values)
    assert found.estimate == pytest.approx(0.5 if units > 1 else 0.1)
    assert np.isfinite(found.low) == np.isfinite(found.high) == enough
    twice = METHODS[method](np.repeat(values, 2), cluster=[str(i // 2) for i in range(2 * units)])
    assert np.isfinite(twice.low) == np.isfinite(twice.high) == enough
    if method in ("share", "mean"):  # ends of shares that all agree on 1 come from elsewhere, and are none either
        agreed = METHODS[method](np.ones(units))
        assert np.isfinite(agreed.low) == np.isfinite(agreed.high) == enough


def test_each_cell_has_an_interval_or_none_by_its_own_units() -> None:
    values = np.random.default_rng(1).normal(size=(6, 3))
    values[:2, 1], values[:1, 2] = np.nan, np.nan
    for found in (bootstrap_mean(values), bootstrap_band(values)):
        assert np.isfinite(found.low).tolist() == [True, False, True]
        assert found.n.tolist() == [6, 4, 5]
    assert bootstrap_mean(values).low[2] == bootstrap_mean(values[:, 2:]).low[0]


@pytest.mark.parametrize("units", [5, 6, 8, 10, 15])
@pytest.mark.parametrize("law", ["normal", "uniform", "exponential"])
def test_coverage_of_few_units(law: str, units: int) -> None:
    rng = np.random.default_rng(units)
    draw = {"normal": rng.normal, "uniform": lambda size: rng.random(size) - 0.5,
            "exponential": lambda size: rng.exponential(size=size) - 1}[law]  # fmt: skip
    samples = draw(size=(units, 1500))  # so many experiments of a few prompts, true mean 0
    found = bootstrap_mean(samples, level=0.95, resamples=1000)
    covered = float(np.mean((found.low <= 0) & (found.high >= 0)))
    assert covered >= (0.84 if law == "exponential" else 0.88)  # the plain percentile: 0.77 and 0.83 of five
    assert covered <= 0.975
    assert (found.low >= samples.min(axis=0)).all()
    assert (found.high <= samples.max(axis=0)).all()


@pytest.mark.parametrize("units", [5, 8])
def test_a_band_of_few_units_covers_its_grid(units: int) -> None:
    rng = np.random.default_rng(8)
    held = 0
    for trial in range(150):
        band = bootstrap_band(
            rng.normal(size=(units, 1)) + 0.3 * rng.normal(size=(units, 6)), resamples=400, seed=trial
        )
        held += bool(((band.low <= 0) & (band.high >= 0)).all())
    assert held / 150 >= 0.88


def test_from_twenty_units_on_the_ends_are_the_plain_percentiles() -> None:
    for units, plain in ((FEW_UNITS - 1, False), (FEW_UNITS, True), (60, True)):
        values = np.random.default_rng(2).normal(size=units)
        replicates = resampling_weights(units, 2000) @ values / units
        found = bootstrap_mean(values)
        assert ((found.low, found.high) == pytest.approx(tuple(np.quantile(replicates, (0.025, 0.975))))) == plain


def test_a_number_is_printed_with_its_interval_or_why_there_is_none() -> None:
    row = pd.Series({"estimate": 0.5, "low": 0.25, "high": 0.75})
    assert with_interval(row) == "0.500 [0.250, 0.750]"
    assert with_interval(row, ".0f", 100) == "50 [25, 75]"
    assert with_interval(pd.Series({"estimate": 12.34, "low": np.nan, "high": np.nan}), ".1f") == "12.3"
    assert why_no_interval(5, "prompt") == ""
    assert why_no_interval(1, "prompt") == "no intervals: 1 prompt, and fewer than 5 say too little of others"
    assert why_no_interval(4, "fact").startswith("no intervals: 4 facts, ")


def test_a_cell_nobody_has_is_missing_not_zero() -> None:
    found = bootstrap_mean(np.full((4, 1), np.nan))
    assert np.isnan(found.estimate[0])
    assert found.n[0] == 0


def test_constant_cells_have_intervals_of_no_width() -> None:
    values = np.column_stack([np.full(12, 0.3), np.arange(12.0)])
    band = bootstrap_band(values)
    assert band.low[0] == band.high[0] == pytest.approx(0.3)
    assert band.high[1] > band.low[1]


def test_a_share_on_which_all_units_agree_still_has_an_interval() -> None:
    values = np.column_stack([np.ones(10), np.zeros(10), [1.0] * 5 + [0.0] * 5])
    found, plain = bootstrap_share(values), bootstrap_mean(values)
    exact = binomtest(10, 10).proportion_ci(0.95, method="exact")
    assert (found.low[0], found.high[0]) == pytest.approx((exact.low, exact.high))
    assert (found.low[1], found.high[1]) == pytest.approx((1 - exact.high, 1 - exact.low))
    assert (found.low[2], found.high[2]) == (plain.low[2], plain.high[2])
    clustered = bootstrap_share(values, cluster=[str(i // 2) for i in range(10)])
    assert clustered.low[0] == pytest.approx(binomtest(5, 5).proportion_ci(0.95, method="exact").low)


def test_a_harmonic_mean_is_resampled_over_records_not_over_its_parts() -> None:
    rng = np.random.default_rng(6)
    records = (rng.random((50, 3)) < [0.9, 0.7, 0.8]).astype(float)
    found = bootstrap_of_means(records, harmonic_mean, level=0.8, resamples=200, seed=2)
    weights = resampling_weights(50, 200, seed=2)
    loop = sorted(3 / sum(1 / (w @ records[:, k] / 50) for k in range(3)) for w in weights)
    assert found.estimate == pytest.approx(3 / sum(1 / records[:, k].mean() for k in range(3)))
    assert found.low == pytest.approx(np.quantile(loop, 0.1))
    assert found.high == pytest.approx(np.quantile(loop, 0.9))


def test_a_harmonic_mean_with_a_zero_is_zero_and_with_a_gap_is_missing() -> None:
    assert harmonic_mean(np.array([0.9, 0.0, 0.8])) == 0.0
    assert np.isnan(harmonic_mean(np.array([0.9, np.nan, 0.8])))
    assert harmonic_mean(np.array([[0.5, 0.5], [1.0, 0.5]])) == pytest.approx([0.5, 2 / 3])


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (np.empty((0, 2)), {}, "nothing to average"),
        (np.array([1.0, np.inf]), {}, "infinite value"),
        (np.arange(3.0), {"level": 95.0}, "level=95.0 is not a coverage"),
        (np.arange(3.0), {"resamples": 0}, "resamples=0"),
        (np.arange(3.0), {"cluster": ["a"]}, "1 cluster labels were given for 3 units"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(values: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bootstrap_mean(values, **options)
