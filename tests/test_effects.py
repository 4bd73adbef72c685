"""Effects, averages by role, differences, windows and findings: synthetic traces whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oracles.effects_oracle import (
    average_indirect_effect,
    indirect_effect,
    synthetic_frame,
    true_effect,
)
from support.zoo import sentence_model

from mechinterp import Prompt, trace
from mechinterp.analysis import (
    average_indirect_effects,
    average_total_effect,
    diagnose,
    difference_of_effects,
    indirect_effects,
    role_effects,
    total_effects,
    window_against_singles,
)
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.patching.traces.table import Table

SITE = ["component", "severed", "role", "layer"]


def table_of(frame: pd.DataFrame, **meta: object) -> Table:
    return Table(frame, dict(meta))


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return synthetic_frame(n_prompts=12, n_layers=4, draws=3)


@pytest.fixture
def table(frame: pd.DataFrame) -> Table:
    return table_of(frame)


def test_indirect_effects_agree_with_a_loop(table: Table) -> None:
    effects = indirect_effects(table)
    for row in effects.sample(40, random_state=0).itertuples():
        expected = indirect_effect(table.frame, row.prompt, row.component, row.severed, row.position, row.layer)
        assert row.effect == pytest.approx(expected, abs=1e-12)
        assert row.draws == 3


def test_total_effects_are_clean_minus_corrupted(table: Table) -> None:
    totals = total_effects(table).set_index("prompt")
    mine = table.frame[table.frame["prompt"] == "p004"]
    clean = mine.loc[mine["run"] == "clean", "prob"].item()
    corrupted = mine.loc[mine["run"] == "corrupted", "prob"]
    assert totals.loc["p004", "total_effect"] == pytest.approx(clean - corrupted.mean())
    assert totals.loc["p004", "se"] == pytest.approx(corrupted.std(ddof=1) / np.sqrt(3))


def test_averages_agree_with_a_loop_and_count_their_prompts(table: Table) -> None:
    effects = average_indirect_effects(table).set_index(SITE)
    for site in (
        ("mlp", "none", "last subject", 2),
        ("resid", "mlp", "middle subject", 1),
        ("attn", "none", "further", 3),
    ):
        expected, n = average_indirect_effect(table.frame, *site)
        row = effects.loc[site]
        assert row["estimate"] == pytest.approx(expected, abs=1e-12)
        assert (row["n_prompts"], row["n_given"]) == (n, 12)


def test_a_long_subject_weighs_as_much_as_a_short_one() -> None:
    """Two prompts, one with two middle tokens and one with a single: means first within, then across."""
    frame = synthetic_frame(n_prompts=4, n_layers=1, draws=1, noise=0.0, severed=False)
    patched = (frame["run"] == "patched") & (frame["role"] == "middle subject") & (frame["component"] == "mlp")
    low = frame[frame["run"] == "corrupted"].set_index("prompt")["prob"]
    wanted = frame["prompt"].map({"p002": 0.3, "p003": 0.1})
    frame.loc[patched, "prob"] = frame["prompt"].map(low) + wanted
    row = average_indirect_effects(table_of(frame)).query("component == 'mlp' and role == 'middle subject'")
    assert row["estimate"].item() == pytest.approx(0.2)  # pooled over the three tokens it would be 0.1667
    positions = role_effects(table_of(frame)).query("component == 'mlp' and role == 'middle subject'")
    assert sorted(positions["positions"]) == [1, 2]


def test_the_reason_says_why_prompts_are_missing(table: Table) -> None:
    effects = average_indirect_effects(table).set_index(SITE)
    assert effects.loc[("mlp", "none", "middle subject", 0), "reason"] == "of 12: 6 without a middle subject token"
    assert effects.loc[("mlp", "none", "last", 0), "reason"] == ""


def test_missing_values_leave_a_prompt_out_and_say_so(frame: pd.DataFrame) -> None:
    frame = frame.copy()
    gap = (frame["prompt"] == "p001") & (frame["run"] == "patched") & (frame["draw"] == 1)
    frame.loc[gap, "logit_diff"] = np.nan
    row = average_indirect_effects(table_of(frame), "logit_diff").set_index(SITE).loc[("mlp", "none", "last", 0)]
    assert row["n_prompts"] == 11
    assert row["reason"] == "of 12: 1 without a value of the metric"


def test_the_truth_lies_in_the_band_and_the_early_site_is_found() -> None:
    table = table_of(synthetic_frame(n_prompts=40, n_layers=8, draws=4, seed=1))
    effects = average_indirect_effects(table, seed=3)
    truth = np.array([true_effect(row.component, row.severed, row.role, row.layer) for row in effects.itertuples()])
    assert ((effects["band_low"] <= truth) & (effects["band_high"] >= truth)).mean() > 0.97
    assert (effects["band_low"] <= effects["low"]).all()
    last = effects[(effects["component"] == "mlp") & (effects["role"] == "last subject")]
    assert last.loc[last["estimate"].idxmax(), "layer"] == 2


def test_a_difference_is_paired_within_prompts() -> None:
    table = table_of(synthetic_frame(n_prompts=30, n_layers=4, draws=3))
    cut = difference_of_effects(table, {"component": "resid"}, {"component": "resid", "severed": "mlp"})
    row = cut[(cut["role"] == "last subject") & (cut["layer"] == 2)].iloc[0]
    assert (row["first"], row["second"]) == ("resid", "resid, mlp severed")
    assert row["low"] < 0.2 < row["high"]  # 0.25 whole, 0.05 severed
    one, two = (average_indirect_effect(table.frame, "resid", cut, "last subject", 2)[0] for cut in ("none", "mlp"))
    assert row["estimate"] == pytest.approx(one - two, abs=1e-12)
    # The size of a prompt's effect is shared by both variants, so pairing makes the interval of the difference short.
    alone = average_indirect_effects(table).set_index(SITE)
    widths = [alone.loc[("resid", variant, "last subject", 2)] for variant in ("none", "mlp")]
    unpaired = np.hypot(*[width["high"] - width["low"] for width in widths])
    assert row["high"] - row["low"] < unpaired


def test_mlp_minus_attention(table: Table) -> None:
    difference = difference_of_effects(table, {"component": "mlp"}, {"component": "attn"}).set_index(["role", "layer"])
    assert difference.loc[("last subject", 2), "low"] > 0
    assert abs(difference.loc[("further", 0), "estimate"]) < 0.02


def test_clusters_by_relation(table: Table) -> None:
    one = average_indirect_effects(table)
    other = average_indirect_effects(table, cluster="relation")
    assert np.allclose(one["estimate"], other["estimate"])
    assert not np.allclose(one["low"], other["low"])


def test_the_total_effect_has_an_interval(table: Table) -> None:
    total = average_total_effect(table)
    assert total.loc["total_effect", "estimate"] == pytest.approx(
        total.loc["clean", "estimate"] - total.loc["corrupted", "estimate"]
    )
    assert total.loc["total_effect", "low"] < 0.5 < total.loc["total_effect", "high"]


def test_every_metric_gives_effects(table: Table) -> None:
    prob, logits = (average_indirect_effects(table, metric)["estimate"] for metric in ("prob", "logit_diff"))
    assert np.allclose(10 * prob, logits)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: indirect_effects(t, "probability"), "no metric 'probability' in the table; it has prob"),
        (lambda t: indirect_effects(t, prompt="p999"), "no prompt 'p999' in the table; it has 'p000'"),
        (lambda t: average_indirect_effects(t, cluster="subject"), "choose prompt or relation"),
        (lambda t: difference_of_effects(t, {"component": "mlps"}, {"component": "attn"}), "no component 'mlps'"),
        (lambda t: difference_of_effects(t, {"layer": 3}, {"component": "attn"}), "'layer' is none of them"),
        (lambda t: difference_of_effects(t, {}, {"component": "attn"}), "leaves component open"),
    ],
)
def test_bad_questions_are_answered_in_one_sentence(table: Table, call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(table)  # type: ignore[operator]


def test_a_table_with_holes_is_refused(frame: pd.DataFrame) -> None:
    run, prompt, draw = frame["run"], frame["prompt"] == "p003", frame["draw"] == 1
    with pytest.raises(MechinterpError, match="draw 1 of the prompt 'p003' was restored, its corrupted run is missing"):
        indirect_effects(table_of(frame[~((run == "corrupted") & prompt & draw)]))
    with pytest.raises(MechinterpError, match="'p003' has no clean run"):
        indirect_effects(table_of(frame[~((run == "clean") & prompt)]))
    with pytest.raises(MechinterpError, match="'p003' has a clean run but no corrupted one"):
        total_effects(table_of(frame[~((run != "clean") & prompt)]))
    again = frame[(run == "corrupted") & prompt].assign(prob=0.9)
    with pytest.raises(MechinterpError, match="'p003' stands in the table twice with different baseline"):
        total_effects(table_of(pd.concat([frame, again])))
    with pytest.raises(UsageError, match="no restored runs"):
        average_indirect_effects(table_of(frame[run != "patched"]))


def test_relations_must_be_there_to_cluster_by_them(frame: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match="'p000' has no relation"):
        average_indirect_effects(table_of(frame.assign(relation="")), cluster="relation")


def test_a_real_trace_is_analysed_from_end_to_end(tmp_path: Path) -> None:
    prompts = [
        Prompt("{} was born in", "Ada Stone", "Lund", id="ada", relation="born_in"),
        Prompt("The birthplace of {} is", "Bo Ek", "Turku", id="bo", relation="born_in"),
    ]
    trace(sentence_model(), prompts, draws=3, window=2, out=tmp_path / "run", progress=False)
    table = Table.load(tmp_path / "run" / "table.parquet")
    effects = average_indirect_effects(table).set_index(SITE)
    totals = total_effects(table).set_index("prompt")
    # Restoring the whole last residual state at the last token brings the clean run back: the total effect, exactly.
    restored = effects.loc[("resid", "none", "last", 2), "estimate"]
    assert restored == pytest.approx(totals["total_effect"].mean(), abs=1e-6)
    assert effects.loc[("resid", "none", "last subject", 2), "estimate"] == pytest.approx(0, abs=1e-7)
    assert (effects["n_given"] == 2).all()
    assert {finding.code for finding in diagnose(table)} >= {"few-draws", "few-prompts", "window-without-singles"}


# --- windows -----------------------------------------------------------------------------------------------------


def test_a_window_stands_beside_the_sum_of_its_layers() -> None:
    table = table_of(synthetic_frame(n_prompts=6, n_layers=5, draws=2, noise=0.0, singles=True, severed=False))
    compared = window_against_singles(table).set_index(["component", "role", "layer"])
    row = compared.loc[("mlp", "last subject", 2)]
    singles = role_effects(table).query("component == 'mlp' and window == 1 and role == 'last subject'")
    expected = singles[singles["layer"].isin([1, 2, 3])].groupby("prompt")["effect"].sum().mean()
    assert row["sum_of_singles"] == pytest.approx(expected)
    assert row["inflation"] == pytest.approx(row["windowed"] / expected)
    assert row["n_prompts"] == 6
    assert window_against_singles(
        table_of(table.frame[(table.frame["window"] > 1) | (table.frame["run"] != "patched")])
    ).empty


# --- findings ----------------------------------------------------------------------------------------------------


def codes(table: Table) -> dict[str, float]:
    return {finding.code: finding.value for finding in diagnose(table)}


def test_a_sound_table_has_no_finding() -> None:
    frame = synthetic_frame(n_prompts=20, n_layers=3, draws=10, window=1).assign(rank=0.0)
    assert diagnose(table_of(frame)) == []


def test_each_weakness_is_found() -> None:
    frame = synthetic_frame(n_prompts=4, n_layers=4, draws=3).assign(rank=0.0)
    clean, corrupted = frame["run"] == "clean", frame["run"] == "corrupted"
    frame.loc[clean & (frame["prompt"] == "p001"), "rank"] = 4.0
    frame.loc[clean & (frame["prompt"] != "p000"), "prob"] = 0.999
    frame.loc[corrupted & (frame["prompt"] == "p002"), "prob"] = 0.998
    first = (frame["run"] == "patched") & (frame["prompt"] == "p003") & (frame["position"] == 0)
    low = frame[corrupted & (frame["prompt"] == "p003")].set_index("draw")["prob"]
    frame.loc[first, "prob"] = frame.loc[first, "draw"].map(low)
    findings = {finding.code: finding for finding in diagnose(table_of(frame, warnings=["noise was loud"]))}
    assert findings["clean-prediction-wrong"].prompts == ("p001",)
    assert findings["small-total-effect"].prompts == ("p002",)
    assert findings["saturated-metric"].value == 0.75
    assert findings["few-draws"].value == 3
    assert findings["few-prompts"].value == 4
    assert findings["window-without-singles"].value == 3
    assert findings["unchanged-cells"].prompts == ("p003",)
    assert findings["from-the-run"].sentence == "noise was loud"
    assert "answered wrongly by the clean model" in str(findings["clean-prediction-wrong"])


def test_an_inflated_window_is_found() -> None:
    table = table_of(synthetic_frame(n_prompts=20, n_layers=8, draws=10, noise=0.001, singles=True))
    assert codes(table)["window-inflation"] > 1.5
    assert "window-without-singles" not in codes(table)
