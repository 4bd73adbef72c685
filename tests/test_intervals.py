"""The bootstrap: against a loop, against a known truth, and at its edges."""

from __future__ import annotations

import numpy as np
import pytest
from oracles.effects_oracle import bootstrap_mean_loop
from scipy.stats import binomtest

from mechinterp.analysis import bootstrap_band, bootstrap_mean, bootstrap_of_means, bootstrap_share
from mechinterp.analysis.evaluation.edit_metrics import harmonic_mean
from mechinterp.analysis.intervals import resampling_weights
from mechinterp.errors import UsageError


@pytest.mark.parametrize("clustered", [False, True])
def test_it_agrees_with_a_loop_over_the_same_resamples(clustered: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(17, 3))
    values[rng.random((17, 3)) < 0.3] = np.nan
    cluster = [f"r{i % 4}" for i in range(17)] if clustered else None
    found = bootstrap_mean(values, level=0.9, resamples=300, seed=5, cluster=cluster)
    weights = resampling_weights(17, 300, seed=5, cluster=cluster).tolist()
    for cell in range(3):
        expected = bootstrap_mean_loop(values[:, cell].tolist(), weights, 0.9)
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


def test_a_single_unit_or_cluster_has_no_interval() -> None:
    alone = bootstrap_mean(np.array([[0.5, np.nan], [0.7, 0.2]]))
    assert np.isfinite(alone.low[0])
    assert np.isnan(alone.low[1])
    assert np.isnan(alone.high[1])
    assert alone.estimate[1] == 0.2
    assert np.isnan(bootstrap_mean(np.arange(5.0), cluster=["r"] * 5).low)
    assert np.isnan(bootstrap_band(np.array([[1.0], [np.nan]])).low[0])


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
    values = np.column_stack([np.ones(8), np.zeros(8), [1.0] * 4 + [0.0] * 4])
    found, plain = bootstrap_share(values), bootstrap_mean(values)
    exact = binomtest(8, 8).proportion_ci(0.95, method="exact")
    assert (found.low[0], found.high[0]) == pytest.approx((exact.low, exact.high))
    assert (found.low[1], found.high[1]) == pytest.approx((1 - exact.high, 1 - exact.low))
    assert (found.low[2], found.high[2]) == (plain.low[2], plain.high[2])
    clustered = bootstrap_share(values, cluster=[str(i // 2) for i in range(8)])
    assert clustered.low[0] == pytest.approx(binomtest(4, 4).proportion_ci(0.95, method="exact").low)


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
