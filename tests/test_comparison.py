"""The paired difference of two editors, against plain loops over resamples and against its laws."""

from __future__ import annotations

from statistics import harmonic_mean

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechinterp.analysis import Evaluation, compare
from mechinterp.errors import UsageError

EMPTY = pd.DataFrame()


def evaluation(values: dict[str, list[float | None]], relations: list[str] | None = None) -> Evaluation:
    """One that gave these values after the edits."""
    rows = [
        {"record": f"r{i:02}", "relation": (relations or [""] * 99)[i], "stage": stage, "metric": metric,
         "value": value if stage == "after" else 0.25, "questions": 1, "failed": ""}
        for metric, own in values.items()
        for i, value in enumerate(own)
        if value is not None
        for stage in ("before", "after")
    ]  # fmt: skip
    return Evaluation(pd.DataFrame(rows), EMPTY, EMPTY)


def shares(seed: int, n: int = 30) -> dict[str, list[float | None]]:
    rng = np.random.default_rng(seed)
    return {metric: [float(rng.random() < 0.6) for _ in range(n)] for metric in ("ES", "PS", "NS")}


def test_a_difference_is_that_of_resampled_records() -> None:
    one, two = shares(0), shares(1)
    found = compare(evaluation(one), evaluation(two), resamples=400, seed=3).set_index("metric")
    draws = np.random.default_rng(3).multinomial(30, np.full(30, 1 / 30), size=400)
    expected: dict[str, list[float]] = {metric: [] for metric in ("ES", "PS", "NS", "S")}
    for draw in draws:
        means = [[sum(w * v for w, v in zip(draw, x[m], strict=True)) / 30 for m in ("ES", "PS", "NS")]
                 for x in (one, two)]  # fmt: skip
        for metric, a, b in zip(("ES", "PS", "NS"), *means, strict=True):
            expected[metric].append(a - b)
        expected["S"].append(harmonic_mean(means[0]) - harmonic_mean(means[1]))
    for metric, replicates in expected.items():
        row = found.loc[metric]
        assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(replicates, (0.025, 0.975))))
        assert row["difference"] == pytest.approx(row["a"] - row["b"])
        assert row["other_sign"] == np.mean([value * row["difference"] <= 1e-12 for value in replicates])
    assert found.loc["ES", "a"] == pytest.approx(np.mean(one["ES"]))
    assert found["n_records"].eq(30).all()
    assert list(found.index) == ["ES", "PS", "NS", "S"]


@settings(max_examples=25)
@given(st.lists(st.floats(-1, 1), min_size=5, max_size=10), st.floats(-0.5, 0.5))
def test_what_is_hard_for_both_goes_out_of_the_difference(values: list[float], shift: float) -> None:
    a = evaluation({"EM": [value + shift for value in values]})
    [row] = compare(a, evaluation({"EM": list(values)}), resamples=50).to_dict("records")
    assert (row["low"], row["high"]) == pytest.approx((shift, shift), abs=1e-9)
    back = compare(evaluation({"EM": list(values)}), a, resamples=50)
    assert back["difference"][0] == pytest.approx(-shift, abs=1e-9)


def test_records_that_all_agree_are_no_certainty() -> None:
    same = evaluation({"ES": [1.0] * 8, "PS": [0.5] * 8, "NS": [1.0] * 8})
    found = compare(same, same, resamples=50).set_index("metric")
    reach = 1 - 0.025 ** (1 / 8)
    assert (found.loc["PS", "low"], found.loc["PS", "high"]) == pytest.approx((-reach, min(reach, 0.5)), abs=0.15)
    assert (found.loc["ES", "low"], found.loc["ES", "high"]) == pytest.approx((-reach, reach))
    assert found.loc["S", "low"] < 0 < found.loc["S", "high"]
    assert (found["difference"] == 0).all()
    assert (found["other_sign"] == 1).all()
    worse = evaluation({"ES": [0.0] * 8})
    [row] = compare(same, worse, ["ES"], resamples=50).to_dict("records")
    assert (row["difference"], row["high"], row["other_sign"]) == (1, 1, 0)
    assert row["low"] == pytest.approx(1 - reach)
    alone = compare(evaluation({"ES": [1.0]}), evaluation({"ES": [0.0]}))
    assert np.isnan(alone["low"][0])


def test_relations_are_drawn_whole() -> None:
    """Ten records of one relation are one unit: the difference between the relations is all that varies."""
    relations = [name for name in "vwxyz" for _ in range(10)]
    a = evaluation({"ES": [1.0] * 50}, relations)
    b = evaluation({"ES": [float(name in "vwx") for name in relations]}, relations)
    [row] = compare(a, b, resamples=500, cluster="relation").to_dict("records")
    assert (row["low"], row["high"]) == (0, 1)
    assert row["other_sign"] == pytest.approx(0.6**5, abs=0.03)
    narrow = compare(a, b, resamples=500)
    assert narrow["low"][0] > 0.2


def test_a_record_counts_where_both_have_a_value() -> None:
    a = evaluation({"ES": [1.0, 1.0, 1.0], "same_subject_kept": [1.0, None, 0.0]})
    b = evaluation({"ES": [0.0, 1.0, 1.0], "same_subject_kept": [0.5, 0.5, None]})
    found = compare(a, b, resamples=50).set_index("metric")
    assert found.loc["same_subject_kept", "n_records"] == 1
    assert found.loc["same_subject_kept", "difference"] == 0.5
    assert np.isnan(found.loc["same_subject_kept", "low"])


def test_what_cannot_be_compared_is_refused() -> None:
    a, b = evaluation({"ES": [1.0, 0.0]}), evaluation({"ES": [1.0, 0.0, 0.0]})
    with pytest.raises(UsageError, match="the record 'r02' is in the second evaluation only"):
        compare(a, b)
    with pytest.raises(UsageError, match="one of the evaluations has no PS"):
        compare(a, evaluation({"ES": [1.0, 0.0], "PS": [1.0, 0.0]}), ["PS"])
    with pytest.raises(UsageError, match="there is no metric 'EZ'"):
        compare(a, a, ["EZ"])
    with pytest.raises(UsageError, match="cluster='subject' is not a column"):
        compare(a, a, cluster="subject")
    with pytest.raises(UsageError, match="the record 'r00' has no relation"):
        compare(a, a, cluster="relation")
