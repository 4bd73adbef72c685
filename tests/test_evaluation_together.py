"""Many edits judged in shared forwards: equal to applying, asking and undoing one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from support.zoo import KINDS, sentence_model

from mechinterp import Fact, Model, Prompt, Question
from mechinterp.analysis import Failed, ask_facts, evaluate_editors, evaluate_edits
from mechinterp.analysis.evaluation.answer_rows import AnswerRows, Sheet
from mechinterp.analysis.evaluation.row_scoring import _Upper, score_under_edits
from mechinterp.analysis.evaluation.scoring import score_rows
from mechinterp.editing import Edit, Factors, Provenance
from mechinterp.editing.edits.row_edits import RowEdits
from mechinterp.errors import MechinterpError, UsageError

PAIRS = [
    ("Marie Curie was born in", "Paris"),
    ("Marie Curie was born in", "Warsaw"),
    ("The capital of France is", "Paris"),
    ("The Space Needle is in", "downtown Seattle"),
]


def handmade(model: Model, layers: tuple[int, ...], *, seed: int, rank: int = 1, size: float = 0.2) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        layer: Factors(
            size * torch.randn(rank, model.d_mlp, generator=generator),
            size * torch.randn(rank, model.d_model, generator=generator),
        )
        for layer in layers
    }
    return Edit.of(factors, Provenance("by hand", model.fingerprint(), model.name, seed=seed))


class OneByOne:
    """Hides from the evaluation what kind of edit it is."""

    def __init__(self, edit: Edit) -> None:
        self.edit = edit

    @contextmanager
    def on(self, model: Model) -> Iterator[None]:
        undo = self.edit.bake(model)
        yield
        undo.undo()


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model()


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    """Nine facts that share questions."""
    cities = ("Paris", "Warsaw", "Seattle")
    return [
        Fact(
            Prompt("{} was born in", name, cities[i % 3], id=f"{name} {i}", relation="born_in"),
            target_new=cities[(i + 1) % 3],
            paraphrases=(Question(f"The people spoke about {name} in"), Question(f"{name} worked in")),
            neighbourhood=(Question("The capital of Poland is", "Warsaw"), Question("The river was in")),
            same_subject=(Prompt("{} was a", name, "mathematician"),),
        )
        for i, name in enumerate(["Marie Curie", "Ada Lovelace", "The writer"] * 3)
    ]


@pytest.mark.parametrize("kind", [*KINDS, "bloom"])
def test_scores_under_an_edit_are_those_of_the_edited_model(kind: str) -> None:
    model = sentence_model(kind)
    edits = [handmade(model, (1,), seed=0), handmade(model, (2,), seed=1, rank=2), handmade(model, (1, 3), seed=2)]
    rows = AnswerRows.of(model, [Question(*pair) for pair in PAIRS])
    asked = [(answer, edit) for edit in (2, 0, 1) for answer in range(len(PAIRS))]
    unedited, edited = score_under_edits(model, rows, RowEdits(edits), asked, batch_size=5)
    pd.testing.assert_frame_equal(unedited, score_rows(model, rows))
    for start, edit in zip(range(0, len(asked), len(PAIRS)), (2, 0, 1), strict=True):
        undo = edits[edit].bake(model)
        alone = score_rows(model, rows)
        undo.undo()
        together = edited.iloc[start : start + len(PAIRS)].reset_index(drop=True)
        assert (together["log_prob"] - unedited["log_prob"]).abs().max() > 1e-3
        assert np.allclose(together["log_prob"], alone["log_prob"], atol=2e-5)
        assert together["top"].tolist() == alone["top"].tolist()


@pytest.mark.parametrize(("kind", "enters"), [("gpt2", True), ("bloom", False)])
def test_a_model_that_cannot_be_entered_half_way_is_run_whole(kind: str, enters: bool) -> None:
    model = sentence_model(kind)
    edits = RowEdits([handmade(model, (2,), seed=0)])
    upper = _Upper(model, edits)
    with edits.on(model):
        upper.lower(torch.tensor([model.encode(PAIRS[0][0])]), 1)
    assert upper._enters is enters


@pytest.mark.parametrize("batch_size", [3, 128])
def test_edits_in_rows_are_judged_as_one_by_one(model: Model, facts: list[Fact], batch_size: int) -> None:
    edits = [handmade(model, (i % 4,), seed=i) for i in range(len(facts))]
    edits[4] = handmade(model, (0, 1), seed=4, rank=40)  # too large for rows
    fingerprint = model.fingerprint()
    together = evaluate_edits(model, edits, facts, batch_size=batch_size, progress=False)
    assert model.fingerprint() == fingerprint
    alone = evaluate_edits(model, [OneByOne(edit) for edit in edits], facts, progress=False)
    assert together.records.drop(columns="value").equals(alone.records.drop(columns="value"))
    assert np.allclose(together.records["value"], alone.records["value"], atol=1e-5)
    assert (together.answers["text"] == alone.answers["text"]).all()
    assert len(together.records) > 100


def test_chunks_of_facts_make_no_difference(model: Model, facts: list[Fact], monkeypatch: pytest.MonkeyPatch) -> None:
    edits = [handmade(model, (1,), seed=i) for i in range(len(facts))]
    whole = evaluate_edits(model, edits, facts, progress=False)
    monkeypatch.setattr("mechinterp.analysis.evaluation.evaluation.FACTS_AT_ONCE", 4)
    chunked = evaluate_edits(model, edits, facts, progress=False)
    assert chunked.records.drop(columns="value").equals(whole.records.drop(columns="value"))
    assert np.allclose(chunked.records["value"], whole.records["value"], atol=1e-6)


def test_several_editors_are_judged_as_each_alone(model: Model, facts: list[Fact]) -> None:
    editors = {
        name: [handmade(model, layers, seed=10 * len(layers) + i) for i in range(len(facts))]
        for name, layers in (("low", (0,)), ("two", (1, 3)), ("high", (2,)))
    }
    editors["mixed"] = [OneByOne(edit) if i % 2 else edit for i, edit in enumerate(editors["low"])]
    together = evaluate_editors(model, editors, facts, progress=False)
    for name, edits in editors.items():
        alone = evaluate_edits(model, edits, facts, progress=False)
        assert np.allclose(together[name].records["value"], alone.records["value"], atol=1e-5)
    with pytest.raises(UsageError, match="8 edits of 'low' for 9 facts"):
        evaluate_editors(model, {"low": editors["low"][:8]}, facts, progress=False)
    with pytest.raises(UsageError, match="no editor to judge"):
        evaluate_editors(model, {}, facts)


def test_a_failed_edit_is_counted_as_no_edit(model: Model, facts: list[Fact]) -> None:
    edits = [handmade(model, (1,), seed=i) for i in range(len(facts))]
    failed = [Failed("the loss became NaN") if i in (0, 5) else edit for i, edit in enumerate(edits)]
    judged = evaluate_edits(model, failed, facts, progress=False)
    assert judged.failures == {facts[0].id: "the loss became NaN", facts[5].id: "the loss became NaN"}
    wide = judged.records.pivot(index=["record", "metric"], columns="stage", values="value").dropna()
    assert (wide.loc[list(judged.failures), "before"] == wide.loc[list(judged.failures), "after"]).all()
    others = wide.drop(index=list(judged.failures))
    assert (others["before"] != others["after"]).any()
    summary = judged.summary().set_index(["stage", "metric"])
    assert (summary["n_failed"] == 2).all()
    assert summary.loc[("after", "ES"), "n_records"] == len(facts)
    every = evaluate_edits(model, [Failed("refused")] * len(facts), facts, progress=False).summary()
    wide = every.pivot(index="metric", columns="stage", values="estimate").dropna()
    assert (wide["before"] == wide["after"]).all()
    assert (every["n_failed"] == len(facts)).all()


def test_one_edit_of_all_facts_is_judged_on_all(model: Model, facts: list[Fact]) -> None:
    edit = handmade(model, (1, 2), seed=0, rank=30)
    judged = evaluate_edits(model, edit, facts, progress=False)
    with edit.on(model):
        after = ask_facts(model, facts)
    found = judged.answers[judged.answers["stage"] == "after"].reset_index(drop=True)
    assert np.allclose(found["log_prob_true"], after["log_prob_true"])
    assert judged.failures == {}


def test_a_broken_edit_is_an_error_that_names_the_question(model: Model, facts: list[Fact]) -> None:
    broken = handmade(model, (1,), seed=0, size=1e19)
    with pytest.raises(MechinterpError, match="gives logits that are no numbers for"):
        evaluate_edits(model, [broken] * len(facts), facts, progress=False)


def test_whole_texts_are_scored_token_by_token(model: Model) -> None:
    texts = ["The river was high after the rain.", "x", "Paris", "Marie Curie was born in Warsaw. " * 20]
    rows = AnswerRows.of_texts(model, texts)
    scores = score_rows(model, rows)
    kept = [ids for text in texts if len(ids := model.encode(text)[: model.n_ctx]) > 1]
    assert scores["tokens"].tolist() == [len(ids) - 1 for ids in kept]
    for ids, joint in zip(kept, scores["joint_log_prob"], strict=True):
        log_probs = model.logits(torch.tensor([ids]))[0].double().log_softmax(-1)
        assert joint == pytest.approx(sum(float(log_probs[i, token]) for i, token in enumerate(ids[1:])), abs=1e-4)
    with pytest.raises(UsageError, match="a text of at least two tokens"):
        AnswerRows.of_texts(model, [" "])


def test_no_batch_keeps_more_positions_than_fit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mechinterp.analysis.evaluation.answer_rows._MAX_KEPT", 4)
    rows = AnswerRows.of(model, [Question(f"The {word} was in", answer) for word in ("river", "owner") for answer in
                                 ("Paris", "the market full of people and of music")])  # fmt: skip
    seen = []
    for batch, keep in rows.batches(64):
        assert len(batch) == 1 or len(batch) * keep <= 4
        seen += batch
    assert sorted(seen) == list(range(len(rows.ids)))
    assert np.isnan(Sheet(rows, [0]).log_probs).all()
