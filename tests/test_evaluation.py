"""Judging edits: scores against single runs, metrics against hand-made numbers, sweeps that can be killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.tokenizers import SENTENCES
from support.zoo import sentence_model

from mechinterp import Fact, Model, Prompt, Question, load
from mechinterp.analysis import (
    ask_facts,
    edit_by_layer,
    evaluate_edit,
    evaluate_edits,
    layer_summary,
    rome_by_layer,
    score_answers,
    summarise,
)
from mechinterp.analysis.evaluation.edit_metrics import record_metrics
from mechinterp.editing import RomeHparams, collect_moments
from mechinterp.errors import MechinterpError, UsageError


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model()


@pytest.fixture
def facts() -> list[Fact]:
    return [
        Fact(
            Prompt("{} was born in", "Ada Stone", "Lund", id="ada", relation="born_in"),
            target_new="Turku",
            paraphrases=(Question("The birthplace of Ada Stone is"), Question("Ada Stone comes from")),
            neighbourhood=(Question("Bo Ek was born in", "Lund"), Question("The sea by"), Question("Cy Voss is from")),
            same_subject=(
                Prompt("{} plays the", "Ada Stone", "violin"),
                Prompt("{} works as a", "Ada Stone", "painter"),
            ),
            one_hop=(Question("The country where Ada Stone was born is", "Sweden"),),
        ),
        Fact(Prompt("{} was born in", "Bo Ek", "Turku", id="bo", relation="born_in"), target_new="Lund"),
        Fact(
            Prompt("{} plays the", "Cy Voss", "flute", id="cy", relation="plays"),
            target_new="violin",
            paraphrases=(Question("On stage, Cy Voss plays the"),),
            neighbourhood=(Question("Ada Stone plays the"),),
        ),
    ]


class Nudge:
    """An edit made by hand: a constant added to one MLP's output bias."""

    def __init__(self, size: float, layer: int = 1) -> None:
        self.size, self.layer = size, layer

    @contextmanager
    def on(self, model: Model) -> Iterator[None]:
        bias = model.layout.down_bias(self.layer)
        assert bias is not None
        old = bias.detach().clone()
        step = self.size * torch.sin(torch.arange(len(bias), dtype=bias.dtype))
        with torch.no_grad():
            bias.add_(step)
        try:
            yield
        finally:
            with torch.no_grad():
                bias.copy_(old)


# --- scores ------------------------------------------------------------------------------------------------------

PAIRS = [
    ("Ada Stone was born in", "Lund"),
    ("Ada Stone was born in", "Turku"),
    ("Ada Stone was born in", "the city of Lund"),
    ("The birthplace of Bo Ek is", "Turku"),
    ("Cy Voss", "works as a painter"),
    ("A", "violin"),
]


def single_run(model: Model, text: str, answer: str) -> tuple[list[float], bool]:
    """One text, one answer, one token after the other, the whole sequence each time."""
    ids, log_probs, right = model.encode(text), [], True
    for token in model.answer_ids(text=text, answer=answer):
        logits = model.logits(torch.tensor([ids]))[0, -1].double()
        log_probs.append(float(logits.log_softmax(-1)[token]))
        right = right and int(logits.argmax()) == token
        ids = [*ids, token]
    return log_probs, right


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_batch_is_its_single_runs(model: Model, batch_size: int) -> None:
    scores = score_answers(model, PAIRS, batch_size=batch_size)
    for (text, answer), row in zip(PAIRS, scores.itertuples(), strict=True):
        log_probs, right = single_run(model, text, answer)
        assert (row.text, row.answer, row.tokens, row.correct) == (text, answer, len(log_probs), right)
        assert row.log_prob == pytest.approx(np.mean(log_probs), abs=1e-5)
        assert row.joint_log_prob == pytest.approx(np.sum(log_probs), abs=1e-5)
        assert row.prob == pytest.approx(np.exp(np.mean(log_probs)), abs=1e-5)
        assert row.joint_prob == pytest.approx(np.exp(np.sum(log_probs)), abs=1e-5)


def test_answers_of_several_tokens_are_scored(model: Model) -> None:
    scores = score_answers(model, PAIRS)
    assert (scores["tokens"] > 1).any()
    several = scores[scores["tokens"] > 1]
    assert (several["joint_prob"] < several["prob"]).all()


def test_the_models_own_continuation_is_correct(model: Model) -> None:
    found = 0
    for text in {sentence[:end].rstrip() for sentence in SENTENCES for end in range(5, len(sentence), 4)}:
        first = int(model.logits(torch.tensor([model.encode(text)]))[0, -1].argmax())
        own = model.tokenizer.decode([first])
        if own.strip() and model.answer_ids(text=text, answer=own) == (first,):  # not every token is a whole answer
            found += 1
            assert score_answers(model, [(text, own)])["correct"].item()
    assert found > 3


def test_a_model_that_knows_its_facts_scores_so(data_dir: Path) -> None:
    toy = load(data_dir / "toy")
    known = json.loads((data_dir / "toy" / "facts.json").read_text())[::40]
    pairs = [(fact["prompt"].replace("{}", fact["subject"]), fact["answer"]) for fact in known]
    scores = score_answers(toy, pairs)
    assert scores["correct"].mean() > 0.98
    assert scores["prob"].mean() > 0.9
    others = score_answers(toy, [(text, pairs[i - 1][1]) for i, (text, _) in enumerate(pairs)])
    assert others["prob"].mean() < 0.3


def test_scoring_refuses_what_it_cannot_score(model: Model) -> None:
    with pytest.raises(UsageError, match="has 8. tokens; small-gpt2 takes 64"):
        score_answers(model, [(" ".join(["the"] * 80), "Lund")])
    with pytest.raises(UsageError, match="batch_size=0"):
        score_answers(model, PAIRS, batch_size=0)
    assert list(score_answers(model, []).columns) == list(score_answers(model, PAIRS).columns)


def test_broken_weights_are_an_error_not_a_number(model: Model) -> None:
    with (
        Nudge(float("nan")).on(model),
        pytest.raises(MechinterpError, match="no numbers for 'Ada Stone was born in Lu'"),
    ):
        score_answers(model, PAIRS)


# --- metrics -----------------------------------------------------------------------------------------------------


def answers(rows: list[tuple[int, str, float, float, int, int]]) -> pd.DataFrame:
    """Hand-made answers: fact, kind, log P(true), log P(new), true right, new right."""
    columns = ["fact", "kind", "log_prob_true", "log_prob_new", "correct_true", "correct_new"]
    frame = pd.DataFrame(rows, columns=columns).astype({"correct_true": float, "correct_new": float})
    return frame.assign(prob_true=np.exp(frame["log_prob_true"]), prob_new=np.exp(frame["log_prob_new"]))


def test_the_metrics_follow_their_definitions(facts: list[Fact]) -> None:
    nan = float("nan")
    kinds = ["rewrite", "paraphrase", "paraphrase", "neighbourhood", "neighbourhood", "neighbourhood"]
    kinds += ["same_subject", "same_subject", "one_hop"]
    before = answers(
        [(0, kind, -0.1, -3.0, 1, 0) for kind in kinds[:6]] + [(0, kind, -0.1, nan, 1, nan) for kind in kinds[6:]]
    )
    before.loc[7, "correct_true"] = 0.0  # one of the subject's other facts was unknown from the start
    after = answers(
        [
            (0, "rewrite", -3.0, -0.5, 0, 1),
            (0, "paraphrase", -2.0, -1.0, 0, 0),
            (0, "paraphrase", -1.0, -1.0, 0, 1),  # a draw is no success
            (0, "neighbourhood", -0.2, -4.0, 1, 0),
            (0, "neighbourhood", -1.0, -2.0, 0, 0),
            (0, "neighbourhood", -3.0, -0.1, 0, 1),
            (0, "same_subject", -3.0, nan, 0, nan),
            (0, "same_subject", -0.1, nan, 1, nan),
            (0, "one_hop", -0.1, nan, 1, nan),
        ]
    )
    long = record_metrics(before, after, facts[:1])
    values = long.set_index(["stage", "metric"])["value"]
    expected = {
        "ES": 1.0, "EM": np.exp(-0.5) - np.exp(-3), "ES_acc": 1.0,
        "PS": 0.5, "PM": (np.exp(-1) - np.exp(-2)) / 2, "PS_acc": 0.5,
        "NS": 2 / 3, "NS_acc": 1 / 3,
        "NM": (np.exp(-0.2) - np.exp(-4) + np.exp(-1) - np.exp(-2) + np.exp(-3) - np.exp(-0.1)) / 3,
        "same_subject": 0.5, "same_subject_kept": 0.0, "one_hop": 1.0,
    }  # fmt: skip
    assert values["after"].to_dict() == pytest.approx(expected)
    assert values["before"]["ES"] == 0.0
    assert values["before"]["NS"] == 1.0
    assert values["before"]["same_subject"] == 0.5
    assert "same_subject_kept" not in values["before"]
    questions = long.set_index(["stage", "metric"])["questions"]
    assert questions["after"][["ES", "PS", "NS", "same_subject_kept"]].tolist() == [1, 2, 3, 1]
    assert set(long["record"]) == {"ada"}


def test_the_score_is_the_harmonic_mean_of_averages() -> None:
    rows = [
        {"record": f"r{i}", "relation": "", "stage": "after", "metric": metric, "value": value, "questions": 1}
        for i, parts in enumerate([(1.0, 0.5, 0.8), (0.0, 1.0, 0.6), (1.0, 0.75, 1.0)])
        for metric, value in zip(("ES", "PS", "NS"), parts, strict=True)
    ]
    summary = summarise(pd.DataFrame(rows)).set_index("metric")
    parts = np.array([2 / 3, 0.75, 0.8])
    assert summary.loc[["ES", "PS", "NS"], "estimate"].to_numpy() == pytest.approx(parts)
    assert summary.loc["S", "estimate"] == pytest.approx(3 / (1 / parts).sum())
    assert np.isnan(summary.loc["S", "low"])  # three records say too little of others
    more = pd.concat(pd.DataFrame(rows).assign(record=lambda frame, i=i: frame["record"] + f"-{i}") for i in range(3))
    summary = summarise(more).set_index("metric")
    assert summary.loc["S", "low"] <= summary.loc["S", "estimate"] <= summary.loc["S", "high"]
    with pytest.raises(UsageError, match="choose record or relation"):
        summarise(pd.DataFrame(rows), cluster="prompt")


def test_a_perfect_score_on_few_records_is_no_certainty() -> None:
    rows = [
        {"record": f"r{i}", "relation": "", "stage": "after", "metric": metric, "value": value, "questions": 1}
        for i in range(8)
        for metric, value in (("ES", 1.0), ("PS", 1.0), ("NS", 1.0), ("EM", 0.9))
    ]
    summary = summarise(pd.DataFrame(rows)).set_index("metric")
    assert summary.loc["ES", "low"] == pytest.approx(0.025 ** (1 / 8))
    assert (summary.loc["S", "low"], summary.loc["S", "high"]) == pytest.approx((0.025 ** (1 / 8), 1.0))
    rows = [{**row, "value": 0.0 if row["metric"] == "ES" else row["value"]} for row in rows]
    nothing = summarise(pd.DataFrame(rows)).set_index("metric").loc["S"]
    assert nothing["estimate"] == nothing["low"] == 0
    assert nothing["high"] > 0.4
    with pytest.raises(UsageError, match="'r0' has no relation"):
        summarise(pd.DataFrame(rows), cluster="relation")


# --- evaluation --------------------------------------------------------------------------------------------------


def test_an_edit_is_judged_and_undone(model: Model, facts: list[Fact]) -> None:
    fingerprint = model.fingerprint()
    judged = evaluate_edit(model, Nudge(0.5), facts[0])
    assert model.fingerprint() == fingerprint
    assert (judged["record"], judged["relation"]) == ("ada", "born_in")
    true, new = score_answers(model, [("Ada Stone was born in", "Lund"), ("Ada Stone was born in", "Turku")])[
        "log_prob"
    ]
    assert judged["before"]["ES"] == float(new > true)
    assert judged["before"]["EM"] == pytest.approx(np.exp(new) - np.exp(true), abs=1e-6)
    with Nudge(0.5).on(model):
        true, new = score_answers(model, [("Ada Stone was born in", "Lund"), ("Ada Stone was born in", "Turku")])[
            "log_prob"
        ]
    assert judged["after"]["EM"] == pytest.approx(np.exp(new) - np.exp(true), abs=1e-6)
    assert judged["after"]["EM"] != judged["before"]["EM"]


def test_an_edit_that_does_nothing_changes_no_metric(model: Model, facts: list[Fact]) -> None:
    summary = evaluate_edits(model, Nudge(0.0), facts, progress=False).summary()
    wide = summary.pivot(index="metric", columns="stage", values="estimate").dropna()
    assert len(wide) >= 10
    assert (wide["before"] == wide["after"]).all()


def test_many_edits_are_judged_one_by_one(model: Model, facts: list[Fact]) -> None:
    edits = [Nudge(0.3), Nudge(0.6), Nudge(-0.4)]
    together = evaluate_edits(model, edits, facts, progress=False)
    after = together.records[together.records["stage"] == "after"].set_index(["record", "metric"])["value"]
    for edit, fact in zip(edits, facts, strict=True):
        assert after[fact.id].to_dict() == pytest.approx(evaluate_edit(model, edit, fact)["after"], abs=1e-6)
    summary = together.summary().set_index(["stage", "metric"])
    assert (summary["n_given"] == 3).all()
    assert summary.loc[("after", "ES"), "n_records"] == 3
    assert summary.loc[("after", "PS"), "n_records"] == 2
    assert summary.loc[("after", "S"), "n_records"] == 2
    assert np.isnan(summary.loc[("after", "one_hop"), "low"])  # one record says nothing of others
    assert set(together.answers["stage"]) == {"before", "after"}


def test_a_fact_with_only_its_prompt_is_enough(model: Model, facts: list[Fact]) -> None:
    judged = evaluate_edit(model, Nudge(0.2), facts[1])
    assert set(judged["after"]) == {"ES", "EM", "ES_acc"}


def test_wrong_facts_are_refused(model: Model, facts: list[Fact]) -> None:
    with pytest.raises(UsageError, match="2 edits for 3 facts"):
        evaluate_edits(model, [Nudge(0.1), Nudge(0.2)], facts)
    with pytest.raises(UsageError, match="'Bo Ek is' lacks the true answer"):
        ask_facts(model, [Fact(Prompt("{} is", "Bo Ek"), target_new="x")])
    with pytest.raises(UsageError, match="'Bo Ek is' lacks target_new"):
        ask_facts(model, [Fact(Prompt("{} is", "Bo Ek", "here"))])
    with pytest.raises(UsageError, match="two facts are called 'ada'"):
        ask_facts(model, [facts[0], facts[0]])
    with pytest.raises(UsageError, match="no facts to ask about"):
        ask_facts(model, [])


def test_neighbours_without_an_answer_share_the_true_object(model: Model, facts: list[Fact]) -> None:
    asked = ask_facts(model, facts[:1])
    assert asked.loc[asked["kind"] == "neighbourhood", "true"].tolist() == ["Lund"] * 3
    assert asked.loc[asked["kind"] == "same_subject", "log_prob_new"].isna().all()


# --- sweeps ------------------------------------------------------------------------------------------------------


def test_a_killed_sweep_goes_on_where_it_stopped(model: Model, facts: list[Fact], tmp_path: Path) -> None:
    out = tmp_path / "runs" / "sweep.jsonl"
    made: list[tuple[str, int]] = []

    def nudge(fact: Fact, layer: int) -> Nudge:
        made.append((fact.id, layer))
        if len(made) == 4 and not out.with_suffix(".killed").exists():
            out.with_suffix(".killed").touch()
            raise KeyboardInterrupt
        return Nudge(0.3, layer)

    with pytest.raises(KeyboardInterrupt):
        edit_by_layer(model, facts, [0, -1], nudge, out=out, progress=False)
    with out.open("ab") as file:
        file.write(b'{"layer": 2, "fact": "cut sho')  # killed in the middle of a line
    frame = edit_by_layer(model, facts, [0, -1], nudge, out=out, progress=False)
    assert made == [("ada", 0), ("bo", 0), ("cy", 0), ("ada", 3), ("ada", 3), ("bo", 3), ("cy", 3)]
    whole = edit_by_layer(model, facts, [0, 3], lambda fact, layer: Nudge(0.3, layer), progress=False)
    columns = ["layer", "record", "stage", "metric", "value", "questions", "failed"]
    pd.testing.assert_frame_equal(frame[columns], whole[columns])
    assert len(out.read_text().splitlines()) == 7
    assert edit_by_layer(model, facts[:1], [3], nudge, out=out, progress=False)["record"].unique().tolist() == ["ada"]
    assert len(made) == 7  # nothing was computed again


def test_a_journal_of_another_experiment_is_refused(model: Model, facts: list[Fact], tmp_path: Path) -> None:
    out = tmp_path / "sweep.jsonl"

    def nudge(fact: Fact, layer: int) -> Nudge:
        return Nudge(0.3, layer)

    edit_by_layer(model, facts[:1], [0], nudge, out=out, settings={"size": 1}, progress=False)
    with pytest.raises(UsageError, match="belongs to another experiment: it differs in settings .size .1, not 2.."):
        edit_by_layer(model, facts[:1], [0], nudge, out=out, settings={"size": 2}, progress=False)
    with Nudge(0.1).on(model), pytest.raises(UsageError, match="differs in model"):
        edit_by_layer(model, facts[:1], [0], nudge, out=out, settings={"size": 1}, progress=False)
    out.write_text("not a journal\n")
    with pytest.raises(UsageError, match="is no journal of this experiment"):
        edit_by_layer(model, facts[:1], [0], nudge, out=out, progress=False)
    assert out.read_text() == "not a journal\n"


def test_a_fact_that_changed_is_edited_again(model: Model, facts: list[Fact], tmp_path: Path) -> None:
    out = tmp_path / "sweep.jsonl"
    made: list[str] = []

    def nudge(fact: Fact, layer: int) -> Nudge:
        made.append(fact.id)
        return Nudge(0.3, layer)

    edit_by_layer(model, facts[1:2], [0], nudge, out=out, progress=False)
    other = Fact(facts[1].prompt, target_new="the sea")
    frame = edit_by_layer(model, [other], [0], nudge, out=out, progress=False)
    assert made == ["bo", "bo"]
    assert (frame.groupby(["stage", "metric"]).size() == 1).all()


def test_an_edit_that_cannot_be_made_is_counted_not_dropped(model: Model, facts: list[Fact]) -> None:
    def make(fact: Fact, layer: int) -> Nudge:
        if fact.id == "bo":
            raise MechinterpError("the loss became NaN")
        return Nudge(0.3, layer)

    frame = edit_by_layer(model, facts, [1], make, progress=False)
    assert set(frame.loc[frame["record"] == "bo", "failed"]) == {"the loss became NaN"}
    summary = layer_summary(frame).set_index(["layer", "stage", "metric"])
    assert summary.loc[(1, "after", "ES"), ["n_records", "n_given", "n_failed"]].tolist() == [3, 3, 1]
    bo = frame[frame["record"] == "bo"].pivot(index="metric", columns="stage", values="value")
    assert (bo["before"] == bo["after"]).all()
    with pytest.raises(UsageError, match="no layers to edit at"):
        edit_by_layer(model, facts, [], make)
    with pytest.raises(UsageError, match="layer 9"):
        edit_by_layer(model, facts, [9], make)


def test_rome_by_layer_edits_every_fact_at_every_layer(model: Model, facts: list[Fact], tmp_path: Path) -> None:
    moments = {
        layer: moment.repaired("ridge")
        for layer, moment in collect_moments(model, SENTENCES, [0, 1], progress=False).items()
    }
    hparams = RomeHparams(steps=8, lr=0.5, context_lengths=((2, 3),), value_contexts=(), keys="mixed")
    fingerprint, out = model.fingerprint(), tmp_path / "rome.jsonl"
    frame = rome_by_layer(model, facts[:2], [0, 1], moments, hparams=hparams, out=out, progress=False)
    assert model.fingerprint() == fingerprint
    assert set(zip(frame["layer"], frame["record"], strict=True)) == {
        (at, name) for at in (0, 1) for name in ("ada", "bo")
    }
    wide = frame.pivot(index=["layer", "record"], columns=["stage", "metric"], values="value")
    assert (wide["after"]["EM"] > wide["before"]["EM"]).all()
    header = json.loads(out.read_text().splitlines()[0])
    assert header["settings"]["method"] == "rome"
    again = rome_by_layer(model, facts[:2], [0, 1], moments, hparams=hparams, out=out, progress=False)
    pd.testing.assert_frame_equal(frame, again)
    with pytest.raises(UsageError, match="no second moment of layer 2"):
        rome_by_layer(model, facts, [2], moments)
