"""What is left of earlier edits: every cell of the matrix is what asking under the joined edit gives."""

from __future__ import annotations

import io
from functools import reduce
from operator import or_

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text
from support.zoo import sentence_model

from mechinterp import Fact, Model, Prompt, Question
from mechinterp.analysis import evaluate_edit, plot_retention, retention
from mechinterp.analysis.evaluation.retention import Retention
from mechinterp.editing import Edit, Factors, Provenance
from mechinterp.editing.rows.completions import perplexity
from mechinterp.errors import UsageError

HELD = ["The river was high after the rain.", "The market was full of people."]


def handmade(model: Model, seed: int) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    u, v = (0.2 * torch.randn(1, width, generator=generator) for width in (model.d_mlp, model.d_model))
    return Edit.of({1: Factors(u, v)}, Provenance("by hand", model.fingerprint(), model.name))


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model()


@pytest.fixture(scope="module")
def steps() -> list[list[Fact]]:
    """Three steps of one, two and one facts."""
    cities = ("Paris", "Warsaw", "Seattle")
    facts = [
        Fact(
            Prompt("{} was born in", name, cities[i % 3], id=name, relation="born_in"),
            target_new=cities[(i + 1) % 3],
            paraphrases=tuple(Question(f"{word} spoke about {name} in") for word in ("The people", "The owner", "He")),
            neighbourhood=(Question("The capital of Poland is", "Warsaw"), Question("The river was in")),
        )
        for i, name in enumerate(["Marie Curie", "Ada Lovelace", "The writer", "The Space Needle"])
    ]
    return [facts[:1], facts[1:3], facts[3:]]


@pytest.fixture(scope="module")
def joined(model: Model) -> dict[int, Edit]:
    parts = [handmade(model, seed) for seed in range(3)]
    return {step: reduce(or_, parts[:step]) for step in (1, 2, 3)}


@pytest.fixture(scope="module")
def found(model: Model, steps: list[list[Fact]], joined: dict[int, Edit]) -> Retention:
    return retention(model, joined, steps, questions=None, held_texts=HELD, progress=False)


def test_every_cell_is_the_fact_under_the_joined_edit(
    model: Model, steps: list[list[Fact]], joined: dict[int, Edit], found: Retention
) -> None:
    seen = 0
    for step, edit in joined.items():
        for made, facts in enumerate(steps[:step], start=1):
            for fact in facts:
                alone = evaluate_edit(model, edit, fact)
                cell = found.records[(found.records["step"] == step) & (found.records["record"] == fact.id)]
                values = cell.set_index("metric")["value"]
                assert (cell["made"] == made).all()
                for metric in ("ES", "ES_acc", "PS", "NS"):
                    assert values[metric] == pytest.approx(alone["after"][metric])
                    before = found.before[found.before["record"] == fact.id].set_index("metric")["value"]
                    assert before[metric] == pytest.approx(alone["before"][metric])
                seen += 1
    assert seen == 1 + 3 + 4
    assert len(found.records) == 4 * seen


def test_age_counts_the_facts_edited_since(found: Retention) -> None:
    ages = found.records.drop_duplicates(["step", "record"]).set_index(["step", "record"])["later"]
    assert ages[1, "Marie Curie"] == 0
    assert (ages[2, "Marie Curie"], ages[2, "The writer"]) == (2, 0)
    assert (ages[3, "Marie Curie"], ages[3, "Ada Lovelace"], ages[3, "The Space Needle"]) == (3, 1, 0)


def test_perplexity_of_each_step(model: Model, joined: dict[int, Edit], found: Retention) -> None:
    expected = [perplexity(model, HELD)]
    for edit in joined.values():
        with edit.on(model):
            expected.append(perplexity(model, HELD))
    assert found.perplexity["perplexity"].tolist() == pytest.approx(expected, rel=1e-5)
    assert found.perplexity["edits"].tolist() == [0, 1, 3, 4]
    assert len(set(expected)) == 4


def test_steps_can_be_left_out_and_questions_be_fewer(
    model: Model, steps: list[list[Fact]], joined: dict[int, Edit], found: Retention
) -> None:
    last = retention(model, {3: joined[3]}, steps, questions=1, progress=False)
    assert set(last.records["step"]) == {3}
    assert last.records[last.records["metric"] == "PS"]["questions"].eq(1).all()
    assert found.records[found.records["metric"] == "PS"]["questions"].eq(3).all()
    assert last.perplexity.empty
    same = ["record", "metric", "value"]
    efficacy = found.records[(found.records["step"] == 3) & (found.records["metric"] == "ES")]
    pd.testing.assert_frame_equal(
        last.records.loc[last.records["metric"] == "ES", same].reset_index(drop=True),
        efficacy[same].reset_index(drop=True),
    )


def test_a_step_without_an_edit_is_the_unedited_model(model: Model, steps: list[list[Fact]]) -> None:
    none = retention(model, {1: None}, steps, questions=None, progress=False)
    before = none.before[none.before["made"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(none.records[before.columns].reset_index(drop=True), before)


def test_the_matrix_and_the_curve_average_the_records() -> None:
    rows = [
        {"step": step, "later": 3 * (step - made), "made": made, "record": f"{made}{i}", "relation": "",
         "metric": "ES_acc", "value": float((step + made + i) % 3 == 0), "questions": 1}
        for step in range(1, 6) for made in range(1, step + 1) for i in range(3)
    ]  # fmt: skip
    records = pd.DataFrame(rows)
    found = Retention(records, records.iloc[:0], pd.DataFrame())
    matrix = found.matrix()
    assert matrix.shape == (5, 5)
    assert np.isnan(matrix.loc[4, 3])
    assert matrix.loc[2, 4] == records.query("step == 4 and made == 2")["value"].mean()
    curve = found.curve(resamples=50).set_index("first")
    assert list(curve.index) == [0, 3, 6, 12]
    assert curve.loc[6, "last"] == 9
    group = records[records["later"].isin([6, 9])]
    assert curve.loc[6, "estimate"] == pytest.approx(group.groupby("record")["value"].mean().mean())
    assert curve.loc[6, "n_records"] == 9
    assert curve.loc[0, "low"] < curve.loc[0, "estimate"] < curve.loc[0, "high"]
    with pytest.raises(UsageError, match="'PS' was not measured on this sequence; it has ES_acc"):
        found.matrix("PS")


def test_the_figure_says_what_it_shows(found: Retention) -> None:
    figure = plot_retention(found, meta={"model": "atlas", "method": "ROME"})
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    text = "\n".join(part.get_text() for part in figure.findobj(Text))
    for words in ("atlas", "ROME in sequence, 4 facts", "facts edited since", "after step", "perplexity of held texts",
                  "dotted: the unedited model", "docs/atlas.md"):  # fmt: skip
        assert words in text
    [image] = figure.axes[1].get_images()
    assert np.allclose(image.get_array().filled(np.nan), found.matrix(), equal_nan=True)


def test_steps_that_are_not_there_are_refused(model: Model, steps: list[list[Fact]], joined: dict[int, Edit]) -> None:
    with pytest.raises(UsageError, match="there is no step 4; the facts are those of steps 1 to 3"):
        retention(model, {4: joined[3]}, steps)
    with pytest.raises(UsageError, match="there is no step to look at"):
        retention(model, {}, steps)
