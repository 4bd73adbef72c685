"""Each metric against its definition: zsRE, Yao et al., what follows from an edit, running text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from support.zoo import sentence_model

from mechinterp import Fact, Model, Prompt, Question
from mechinterp.analysis import (
    COUNTERFACT,
    METRICS,
    YAO_METRICS,
    ZSRE_METRICS,
    Failed,
    Portability,
    References,
    ReferenceText,
    Sampling,
    ask_facts,
    evaluate_edits,
    fluency,
    generate,
    metric_table,
    portability_of,
)
from mechinterp.analysis.evaluation.metric_table import GENERATION_METRICS, chosen
from mechinterp.analysis.evaluation.questions import edit_sentence, questions
from mechinterp.editing import Edit, Factors, Provenance
from mechinterp.editing.rows.completions import perplexity
from mechinterp.errors import UsageError

HELD = ["The river was high after the rain.", "The market was full of people."]


def handmade(model: Model, seed: int, rank: int = 1) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    u, v = (0.3 * torch.randn(rank, width, generator=generator) for width in (model.d_mlp, model.d_model))
    return Edit.of({1: Factors(u, v)}, Provenance("by hand", model.fingerprint(), model.name))


class Whole:
    """An edit of unknown kind."""

    def __init__(self, edit: Edit) -> None:
        self.edit = edit

    @contextmanager
    def on(self, model: Model) -> Iterator[None]:
        with self.edit.on(model):
            yield


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model()


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    return [
        Fact(
            Prompt("{} was born in", name, "Warsaw", id=name, relation="born_in"),
            target_new="downtown Paris",
            paraphrases=(Question(f"The people spoke about {name} in"),),
            neighbourhood=(Question("The capital of Poland is", "Warsaw"), Question("The owner was in", "downtown")),
            same_subject=(Prompt("{} was a", name, "writer and mathematician"),),
            generation=(f"{name} was", f"{name} was", f"{name} worked"),
        )
        for name in ("Marie Curie", "Ada Lovelace", "The writer")
    ]


# --- the table ---------------------------------------------------------------------------------------------------


def test_every_metric_says_what_it_is() -> None:
    table = metric_table()
    assert table["name"].is_unique
    assert (table.drop(columns="name") != "").all().all()
    assert set(table["better"]) <= {"higher", "lower"}
    assert set(table["protocol"]) == {"teacher-forced", "generated"}
    assert set(table["reference"]) == {"gold", "pre-edit", "none"}
    named = {*COUNTERFACT, *ZSRE_METRICS, *YAO_METRICS, *GENERATION_METRICS, "perplexity"}
    assert named == set(METRICS)
    for metric in METRICS.values():
        assert bool(metric.kind) == bool(metric.rule)
        assert (metric.rule == "unchanged") == (metric.reference == "pre-edit")
        assert set(metric.parts) <= set(METRICS)


def test_metrics_are_chosen_by_name() -> None:
    assert [metric.name for metric in chosen(["S", "EM"])] == ["ES", "EM", "PS", "NS", "S"]
    with pytest.raises(UsageError, match="there is no metric 'ESS'; the metrics are ES, EM"):
        chosen(["ESS"])
    assert chosen("S") == chosen(["S"])
    with pytest.raises(UsageError, match="no metric is named; give names of ES"):
        chosen([])


# --- zsRE --------------------------------------------------------------------------------------------------------


def share_right(model: Model, text: str, answer: str) -> float:
    """Token by token: is the gold token the most probable one after the text and the gold tokens before it?"""
    ids, right = model.encode(text), []
    for token in model.answer_ids(text=text, answer=answer):
        right.append(int(model.logits(torch.tensor([ids]), keep=1)[0, -1].argmax()) == token)
        ids = [*ids, token]
    return sum(right) / len(right)


def tokens_said(model: Model, text: str, answer: str) -> list[int]:
    """The most probable token at the place of each token of the answer."""
    ids, said = model.encode(text), []
    for token in model.answer_ids(text=text, answer=answer):
        said.append(int(model.logits(torch.tensor([ids]), keep=1)[0, -1].argmax()))
        ids = [*ids, token]
    return said


def test_zsre_counts_tokens_of_the_target(model: Model) -> None:
    facts = [
        Fact(
            Prompt("{} was born in", name, id=name),  # zsRE gives no other answer than the target
            target_new="downtown Seattle.",
            paraphrases=(Question(f"The place where {name} was born is"), Question(f"{name} worked in")),
            neighbourhood=(Question("The capital of Poland is", "Warsaw and Paris"),),
        )
        for name in ("Marie Curie", "Ada Lovelace")
    ]
    edits = [handmade(model, seed) for seed in range(2)]
    judged = evaluate_edits(model, edits, facts, metrics=ZSRE_METRICS, progress=False)
    values = judged.records.set_index(["record", "stage", "metric"])["value"].sort_index()
    for fact, edit in zip(facts, edits, strict=True):
        for stage in ("before", "after"):
            with edit.on(model) if stage == "after" else nullcontext():
                expected = {
                    "zsre_efficacy": share_right(model, fact.prompt.text, "downtown Seattle."),
                    "zsre_paraphrase": np.mean(
                        [share_right(model, q.text, "downtown Seattle.") for q in fact.paraphrases]
                    ),
                    "zsre_specificity": share_right(model, "The capital of Poland is", "Warsaw and Paris"),
                }
            assert values[fact.id, stage].to_dict() == pytest.approx(expected)
    summary = judged.summary().set_index(["stage", "metric"])["estimate"]
    parts = summary["after"][["zsre_efficacy", "zsre_paraphrase", "zsre_specificity"]]
    score = 0.0 if (parts == 0).any() else 3 / (1 / parts).sum()
    assert summary["after", "zsre_score"] == pytest.approx(score)
    with pytest.raises(UsageError, match="'Marie Curie' lacks the true answer.*zsRE's"):
        evaluate_edits(model, edits, facts, progress=False)


# --- Yao et al. --------------------------------------------------------------------------------------------------


def test_locality_holds_the_edited_model_against_the_unedited_one(model: Model, facts: list[Fact]) -> None:
    edits = [handmade(model, seed) for seed in range(len(facts))]
    names = (
        "reliability",
        "generalization",
        "locality",
        "locality_relations",
        "locality_distracting",
        "NS_distracting",
    )
    judged = evaluate_edits(model, edits, facts, metrics=names, progress=False)
    values = judged.records.set_index(["record", "stage", "metric"])["value"].sort_index()
    assert not {"locality", "locality_relations", "locality_distracting"} & set(values["Ada Lovelace", "before"].index)
    for fact, edit in zip(facts, edits, strict=True):
        asked = {
            "locality": [(q.text, q.answer) for q in fact.neighbourhood],
            "locality_relations": [(p.text, p.answer) for p in fact.same_subject],
            "locality_distracting": [
                (f"{fact.subject} was born in downtown Paris. {q.text}", q.answer) for q in fact.neighbourhood
            ],
        }
        found = values[fact.id, "after"]
        for name, pairs in asked.items():
            before = [tokens_said(model, text, answer) for text, answer in pairs]
            with edit.on(model):
                after = [tokens_said(model, text, answer) for text, answer in pairs]
            assert found[name] == pytest.approx(
                np.mean([np.mean(np.equal(a, b)) for a, b in zip(before, after, strict=True)])
            )
        with edit.on(model):
            assert found["reliability"] == share_right(model, fact.prompt.text, "downtown Paris")
            assert found["generalization"] == share_right(model, fact.paraphrases[0].text, "downtown Paris")
    still = evaluate_edits(model, [Failed("none")] * len(facts), facts, metrics=names, progress=False).summary()
    still = still[still["stage"] == "after"].set_index("metric")["estimate"]
    assert (still[["locality", "locality_relations", "locality_distracting"]] == 1).all()


def test_the_distraction_is_the_edit_as_a_sentence(facts: list[Fact]) -> None:
    assert edit_sentence(facts[0]) == "Marie Curie was born in downtown Paris."
    asked = questions(facts[:1], ["NS_distracting"])
    assert [(q.text, q.true, q.new) for q in asked] == [
        ("Marie Curie was born in downtown Paris. The capital of Poland is", "Warsaw", "downtown Paris"),
        ("Marie Curie was born in downtown Paris. The owner was in", "downtown", "downtown Paris"),
    ]


def test_portability_is_asked_as_given(model: Model, facts: list[Fact]) -> None:
    given = {
        facts[0].id: Portability(
            subject_replacement=(Question("Marie was born in", "downtown Paris"),),
            reversed_relation=(Question("The people of downtown Paris spoke about", "Marie Curie"),),
            one_hop=(Question("The capital of her France is", "Paris"), Question("Marie was born in", "France")),
        )
    }
    names = ("portability_subject", "portability_reversed", "portability_one_hop")
    edits = [handmade(model, seed) for seed in range(len(facts))]
    judged = evaluate_edits(model, edits, facts, metrics=names, portability=given, progress=False)
    values = judged.records.set_index(["record", "stage", "metric"])["value"].sort_index()
    assert set(judged.records["record"]) == {facts[0].id}
    with edits[0].on(model):
        assert values[facts[0].id, "after", "portability_reversed"] == share_right(
            model, "The people of downtown Paris spoke about", "Marie Curie"
        )
        assert values[facts[0].id, "after", "portability_one_hop"] == pytest.approx(
            np.mean([share_right(model, q.text, q.answer or "") for q in given[facts[0].id].one_hop])
        )


def born(name: str, city: str, country: str, new: str) -> Fact:
    return Fact(
        Prompt("{} was born in", name, city, id=name, relation="born_in"),
        target_new=new,
        one_hop=(
            Question(f"The country where {name} was born is", country),
            Question(f"{name} comes from the north of", country),
        ),
        reverse=(Question(f"{city} is the birthplace of", name),),
    )


def test_portability_follows_from_the_facts() -> None:
    facts = [
        born("Ada", "Lund", "Sweden", new="Turku"),
        born("Bo", "Turku", "Finland", new="Oslo"),
        Fact(Prompt("{} works in", "Cy", "Turku", id="Cy", relation="works_in"), target_new="Lund"),
    ]
    found = portability_of(facts, aliases={"Ada": ["Miss Stone", "A. Stone"]})
    assert found["Ada"] == Portability(
        subject_replacement=(Question("Miss Stone was born in", "Turku"), Question("A. Stone was born in", "Turku")),
        reversed_relation=(Question("Turku is the birthplace of", "Ada"),),
        one_hop=(
            Question("The country where Ada was born is", "Finland"),
            Question("Ada comes from the north of", "Finland"),
        ),
    )
    assert found["Bo"] == Portability(reversed_relation=(Question("Oslo is the birthplace of", "Bo"),))
    assert found["Cy"] == Portability()  # that Ada was born in Lund says nothing of working there
    assert portability_of(facts[:1], known=facts[1:])["Ada"].one_hop == found["Ada"].one_hop
    assert portability_of(facts[:1])["Ada"].one_hop == ()


# --- running text ------------------------------------------------------------------------------------------------

SHORT = Sampling(length=18, seed=2)


@pytest.fixture(scope="module")
def references() -> References:
    return References(
        [ReferenceText("born_in", "downtown Paris", "In the evening the market of Paris was full of music.")], HELD
    )


def test_generated_text_is_judged_with_each_edit(model: Model, facts: list[Fact], references: References) -> None:
    edits = [handmade(model, 0), handmade(model, 1, rank=40), Failed("refused")]
    names = ("GE", "RS", "perplexity")
    judged = evaluate_edits(
        model, edits, facts, metrics=names, references=references, held_texts=HELD, sampling=SHORT, progress=False
    )
    values = judged.records.set_index(["record", "stage", "metric"])["value"].sort_index()
    assert judged.notes == ()
    assert len(judged.texts) == 2 * 3 * len(facts)
    for fact, edit in zip(facts, edits, strict=True):
        for stage in ("before", "after"):
            with edit.on(model) if stage == "after" and isinstance(edit, Edit) else nullcontext():
                texts = generate(model, list(fact.generation), SHORT)
                expected = {
                    "GE": fluency(texts),
                    "RS": references.consistency(texts, "born_in", "downtown Paris"),
                    "perplexity": perplexity(model, HELD),
                }
            assert values[fact.id, stage].to_dict() == pytest.approx(expected, rel=1e-4)
            own = judged.texts[(judged.texts["record"] == fact.id) & (judged.texts["stage"] == stage)]
            assert own["text"].tolist() == texts
    assert set(judged.summary()["metric"]) == set(names)
    assert judged.failures == {facts[2].id: "refused"}


def test_one_edit_of_all_facts_has_one_perplexity(model: Model, facts: list[Fact]) -> None:
    edit = handmade(model, 0)
    judged = evaluate_edits(
        model, Whole(edit), facts, metrics=("GE", "perplexity"), held_texts=HELD, sampling=SHORT, progress=False
    )
    values = judged.records.set_index(["metric", "stage", "record"])["value"].sort_index()
    with edit.on(model):
        assert values["perplexity", "after"].to_dict() == pytest.approx(
            {facts[0].id: perplexity(model, HELD)}, rel=1e-4
        )
        assert values["GE", "after", facts[1].id] == fluency(generate(model, list(facts[1].generation), SHORT))
    summary = judged.summary().set_index(["stage", "metric"])
    assert np.isnan(summary.loc[("after", "perplexity"), "low"])


def test_what_is_absent_is_said_and_never_zero(model: Model, facts: list[Fact], references: References) -> None:
    other = Fact(Prompt("{} worked in", "Marie Curie", "Warsaw"), target_new="Paris")
    edits = [Failed("")] * 4
    judged = evaluate_edits(model, edits, [*facts, other], metrics=("GE", "RS"), sampling=SHORT, progress=False)
    assert set(judged.records["metric"]) == {"GE"}
    assert judged.notes == (
        "RS is absent for 3 of 4 records: no reference texts were given (references=...)",
        "GE is absent for 1 of 4 records: they have no prompts to generate from",
        "RS is absent for 1 of 4 records: they have no prompts to generate from",
    )
    elsewhere = References([ReferenceText("born_in", "Oslo", "a text about Oslo")])
    judged = evaluate_edits(
        model, edits[:3], facts, metrics=("RS",), references=elsewhere, sampling=SHORT, progress=False
    )
    assert judged.notes == (
        "RS is absent for 3 of 3 records: no reference text is about their relation and new object",
    )
    assert judged.records.empty
    assert judged.summary().empty
    with pytest.raises(UsageError, match="pass held_texts"):
        evaluate_edits(model, edits[:3], facts, metrics=("perplexity",), progress=False)


def test_answers_hold_what_every_metric_is_made_of(model: Model, facts: list[Fact]) -> None:
    asked = ask_facts(model, facts, ["reliability", "locality"])
    assert set(asked["kind"]) == {"rewrite", "neighbourhood"}
    rewrites = asked[asked["kind"] == "rewrite"]
    assert rewrites["true"].isna().all()
    assert rewrites["log_prob_true"].isna().all()
    for row in rewrites.itertuples():
        assert list(row.top_new) == tokens_said(model, row.text, row.new)
        assert row.accuracy_new == share_right(model, row.text, row.new)
