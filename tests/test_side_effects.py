"""Looking before and after: forecast risk of other facts, what changed in whose favour, and how the two agree."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from scipy.stats import spearmanr
from support.running_text import running_text
from support.zoo import KINDS, sentence_model

from mechinterp import Fact, Model, Prompt
from mechinterp.analysis import Failed, diff, forecast, forecast_correlation, plot_diff, score_answers
from mechinterp.analysis.damage.forecast_correlation import weighted_spearman
from mechinterp.editing import Edit, EditRequest, Factors, LinearMemory, Provenance, SecondMoment
from mechinterp.errors import UsageError

FACTS = [
    Fact(Prompt(template, subject, answer, id=f"{subject} {relation}", relation=relation), target_new="Paris")
    for subject in ("Marie Curie", "Ada Lovelace", "The writer", "The Space Needle")
    for template, relation, answer in (("{} was born in", "born", "Warsaw"), ("{} worked in the", "work", "river"))
]


def request(fact: Fact, target: str = "Paris") -> EditRequest:
    return EditRequest(fact.prompt, target)


def key_of(model: Model, prompt: Prompt, layer: int) -> torch.Tensor:
    """The key at the subject's last token, from a forward of its own."""
    tokenised = model.tokenise(prompt)
    _, cache = model.bridge.run_with_cache(torch.tensor([tokenised.ids]))
    return cache[model.layout.key_hook(layer)][0, tokenised.subject[1] - 1].double()


def handmade(model: Model, facts: list[Fact], layers: tuple[int, ...], *, seed: int, rank: int = 1, size: float = 0.2,
             target: str = "Paris") -> Edit:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    factors = {
        layer: Factors(
            *(size * torch.randn(rank, width, generator=generator) for width in (model.d_mlp, model.d_model))
        )
        for layer in layers
    }
    requests = tuple(request(fact, target) for fact in facts)
    return Edit.of(factors, Provenance("by hand", model.fingerprint(), model.name, requests=requests))


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model()


@pytest.fixture(scope="module")
def moment(model: Model) -> SecondMoment:
    return SecondMoment.collect(model, running_text(400), 1, progress=False)


# --- forecast ----------------------------------------------------------------------------------------------------


def test_a_rank_one_edit_is_forecast_by_its_keys(model: Model, moment: SecondMoment) -> None:
    memory, own = LinearMemory.of(model, 1, moment), key_of(model, FACTS[0].prompt, 1)
    value = memory.recall(own) + torch.randn(model.d_model, dtype=torch.float64)
    inserted = memory.insert(own, value)
    factors = Factors(inserted.u[None].float(), inserted.v[None].float())
    edit = Edit.of({1: factors}, Provenance("by hand", model.fingerprint(), requests=(request(FACTS[0]),)))
    table = forecast(model, edit, FACTS)
    solved = moment.solve(own)
    for fact, overlap, risk in zip(FACTS, table["overlap"], table["risk"], strict=True):
        key = key_of(model, fact.prompt, 1)
        expected = abs(float(key @ solved) / float(own @ solved))
        assert overlap == pytest.approx(expected, rel=1e-3, abs=1e-4)
        size = float(inserted.residual.norm() / memory.recall(key).norm())
        assert risk == pytest.approx(expected * size, rel=1e-3, abs=1e-4)
    assert table["overlap"][0] == pytest.approx(1, abs=1e-6)
    under = forecast(model, edit, FACTS, moments={1: moment})
    assert np.allclose(under["overlap"], table["overlap"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_risk_is_the_relative_change_of_the_value(kind: str) -> None:
    """At the first edited layer, whose keys no edit changes, it is what a run with the edit shows."""
    model = sentence_model(kind)
    edit = handmade(model, [FACTS[2]], (2,), seed=0, rank=3)
    table = forecast(model, edit, FACTS, batch_size=3)
    hook = model.layout.value_hook(2)
    for fact, risk in zip(FACTS, table["risk"], strict=True):
        tokenised = model.tokenise(fact.prompt)
        at = tokenised.subject[1] - 1
        before = model.bridge.run_with_cache(torch.tensor([tokenised.ids]))[1][hook][0, at]
        with edit.on(model):
            after = model.bridge.run_with_cache(torch.tensor([tokenised.ids]))[1][hook][0, at]
        assert risk == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-3)


def test_changes_of_several_layers_are_added_up(model: Model) -> None:
    edit = handmade(model, [FACTS[0], FACTS[3]], (1, 3), seed=1, rank=2)
    table = forecast(model, edit, FACTS)
    weights = {layer: model.layout.down_projection(layer).detach().double() for layer in (1, 3)}
    changes, values = [], []
    for fact in FACTS:
        keys = {layer: key_of(model, fact.prompt, layer) for layer in (1, 3)}
        changes.append(sum(key @ edit.delta(layer).double() for layer, key in keys.items()).norm())
        values.append(sum(key @ weights[layer] + model.layout.down_bias(layer).detach().double()
                          for layer, key in keys.items()).norm())  # fmt: skip
    assert np.allclose(table["risk"], [float(a / b) for a, b in zip(changes, values, strict=True)], rtol=1e-3)
    mean = (changes[0] + changes[3]) / 2
    assert np.allclose(table["overlap"], [float(change / mean) for change in changes], rtol=1e-3)


def test_several_edits_are_forecast_as_each_alone(model: Model) -> None:
    edits = [handmade(model, [FACTS[i]], (i % 2, 2), seed=i) for i in range(4)]
    together = forecast(model, [*edits[:2], Failed("nan"), *edits[2:]], FACTS, sample=3, seed=5)
    assert together["edit"].tolist() == [i for i in (0, 1, 3, 4) for _ in range(3)]
    for number, edit in zip((0, 1, 3, 4), edits, strict=True):
        alone = forecast(model, edit, FACTS).set_index("record")
        part = together[together["edit"] == number].set_index("record")
        pd.testing.assert_frame_equal(part.drop(columns="edit"), alone.loc[part.index].drop(columns="edit"), rtol=1e-5)
    assert len(set(map(tuple, (part["record"] for _, part in together.groupby("edit"))))) > 1


def test_kin_is_told_by_subject_and_relation(model: Model) -> None:
    table = forecast(model, handmade(model, [FACTS[0]], (1,), seed=0), FACTS).set_index("record")
    assert table["kin"].to_dict() == {
        "Marie Curie born": "edited", "Marie Curie work": "same subject", "Ada Lovelace born": "same relation",
        "Ada Lovelace work": "other", "The writer born": "same relation", "The writer work": "other",
        "The Space Needle born": "same relation", "The Space Needle work": "other",
    }  # fmt: skip


def test_what_cannot_be_forecast_is_refused(model: Model, moment: SecondMoment) -> None:
    edit = handmade(model, [FACTS[0]], (1, 2), seed=0)
    with pytest.raises(UsageError, match="no second moment of layer 2 was given"):
        forecast(model, edit, FACTS, moments={1: moment})
    with pytest.raises(UsageError, match="the edit 0 holds no request"):
        forecast(model, handmade(model, [], (1,), seed=0), FACTS)
    with pytest.raises(UsageError, match="there is no edit to look at"):
        forecast(model, [Failed("nan")], FACTS)
    with pytest.raises(UsageError, match="there are no facts"):
        forecast(model, edit, [])
    with pytest.raises(UsageError, match="'a b' has no answer"):
        forecast(model, edit, [Fact(Prompt("{} b", "a"))])
    with pytest.raises(UsageError, match="two facts are called"):
        forecast(model, edit, [FACTS[0], FACTS[0]])
    with pytest.raises(UsageError, match="sample=0 asks about no fact"):
        forecast(model, edit, FACTS, sample=0)
    with pytest.raises(UsageError, match="batch_size=0 reads nothing"):
        forecast(model, edit, FACTS, batch_size=0)
    with pytest.raises(UsageError, match="but the model at hand is"):
        forecast(sentence_model(seed=3), edit, FACTS)


# --- diff --------------------------------------------------------------------------------------------------------


def test_a_diff_is_what_asking_before_and_after_gives(model: Model) -> None:
    edits = [handmade(model, [FACTS[i]], (i % 3,), seed=i, size=0.4) for i in range(3)]
    edits.append(handmade(model, FACTS[:2], (0, 1), seed=9, rank=30))  # too large for rows
    table = diff(model, edits, FACTS, sample=5, seed=1, batch_size=7)
    pairs = [(fact.prompt.text, fact.answer) for fact in FACTS]
    before = score_answers(model, pairs)
    for number, edit in enumerate(edits):
        part = table[table["edit"] == number]
        chosen = [i for i, fact in enumerate(FACTS) if fact.id in set(part["record"])]
        with edit.on(model):
            after = score_answers(model, pairs)
            said = [model.complete(FACTS[i].prompt.text) for i in chosen]
            ids = [torch.tensor([model.encode(FACTS[i].prompt.text)]) for i in chosen]
            probs = [float(model.logits(one)[0, -1].double().softmax(-1).max()) for one in ids]
            tokens = [int(model.logits(one)[0, -1].argmax()) for one in ids]
        assert part["record"].tolist() == [FACTS[i].id for i in chosen]
        assert part["top_after"].tolist() == said
        assert np.allclose(part["prob_after"], probs, atol=1e-5)
        assert np.allclose(part["fall"], before["log_prob"][chosen] - after["log_prob"][chosen], atol=2e-5)
        assert part["correct_after"].tolist() == after["correct"][chosen].tolist()
        assert part["changed"].tolist() == [
            int(model.logits(one)[0, -1].argmax()) != token for one, token in zip(ids, tokens, strict=True)
        ]
    assert table["changed"].any()


def test_favour_names_what_took_the_place(model: Model) -> None:
    """Make the word that took a fact's place the edit's object, then the fact's own answer."""
    seen = set()
    for seed in range(6):
        plain = diff(model, handmade(model, [FACTS[0]], (1,), seed=seed, size=0.6), FACTS)
        assert set(plain.loc[plain["changed"], "favour"]) == {"another word"}
        assert (plain.loc[~plain["changed"], "favour"] == "").all()
        for i, said in plain.loc[plain["changed"], "top_after"].items():
            text = FACTS[i].prompt.text
            if not said or model.decode(model.answer_ids(text, said)) != f" {said}":
                continue  # a piece of a word, which no answer begins with
            if len(model.answer_ids(text, said)) > 1:
                continue
            towards = handmade(model, [FACTS[0]], (1,), seed=seed, size=0.6, target=said)
            favour = diff(model, towards, FACTS)["favour"][i]
            answered = [Fact(f.prompt.with_answer(said)) if n == i else f for n, f in enumerate(FACTS)]
            own = diff(model, towards, answered)["favour"][i]
            token = model.answer_ids(text, said)[0]
            with towards.on(model):
                if int(model.logits(torch.tensor([model.encode(text)]))[0, -1].argmax()) == token:
                    assert (favour, own) == ("the edit's object", "its own answer")
                    seen.add(said)
    assert seen


def test_the_figure_of_a_diff_counts_and_names(model: Model) -> None:
    table = diff(model, handmade(model, [FACTS[0]], (1,), seed=0, size=0.6), FACTS)
    figure = plot_diff(table, meta={"model": "atlas", "method": "ROME"})
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    text = "\n".join(found.get_text() for found in figure.findobj(Text))
    for part in ("ROME: 1 edit, 8 facts asked", "same relation (n = 3)", "another word", "docs/atlas.md", "→"):
        assert part in text
    shares = figure.axes[0].containers
    total = sum(bar.get_width() for container in shares for bar in container)
    assert total == pytest.approx(table.groupby("kin")["changed"].mean().sum())
    with pytest.raises(UsageError, match=r"this is no table of diff\(\)"):
        plot_diff(table.drop(columns="favour"))


# --- how the two agree -------------------------------------------------------------------------------------------


@given(st.integers(2, 12).flatmap(lambda n: st.tuples(*[
    st.lists(st.integers(0, 5), min_size=n, max_size=n) for _ in range(3)
])))  # fmt: skip
def test_a_weighted_correlation_is_that_of_the_repeated_sample(lists: tuple[list[int], list[int], list[int]]) -> None:
    x, y, weights = (np.array(values, dtype=float) for values in lists)
    again = weights.astype(int)
    [found] = weighted_spearman(x, [y], weights[None])[0] if again.sum() else [np.nan]
    a, b = np.repeat(x, again), np.repeat(y, again)
    if len(set(a)) < 2 or len(set(b)) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)


def tables(n_edits: int, n_facts: int, *, noise: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    keys = [(edit, f"r{i}") for edit in range(n_edits) for i in range(n_facts)]
    risk = rng.random(len(keys))
    kin = ["edited" if i % n_facts == 0 else "other" for i in range(len(keys))]
    frame = pd.DataFrame(keys, columns=["edit", "record"]).assign(kin=kin, risk=risk, overlap=rng.random(len(keys)))
    fall = risk + noise * rng.standard_normal(len(keys))
    damage = frame[["edit", "record"]].assign(fall=fall, correct_before=True, correct_after=fall < 0.5)
    return frame, damage


def test_the_correlation_and_its_interval() -> None:
    frame, damage = tables(6, 40, noise=0.3)
    found = forecast_correlation(frame, damage.sample(frac=1, random_state=0), resamples=300).set_index(
        ["scope", "outcome"]
    )
    others = frame["kin"] == "other"
    expected = spearmanr(frame["risk"][others], damage["fall"][others]).statistic
    row = found.loc[("all pairs", "fall")]
    assert row["estimate"] == pytest.approx(expected)
    assert row["low"] < expected < row["high"]
    assert (row["n_pairs"], row["n_edits"]) == (6 * 39, 6)
    own = [
        spearmanr(frame["risk"][rows], damage["fall"][rows]).statistic
        for edit in range(6)
        for rows in [others & (frame["edit"] == edit)]
    ]
    assert found.loc[("within an edit", "fall"), "estimate"] == pytest.approx(np.mean(own))
    assert found.loc[("all pairs", "change"), "estimate"] == pytest.approx(
        spearmanr(frame["risk"][others], damage["fall"][others].abs()).statistic
    )
    assert found.loc[("all pairs", "lost"), "estimate"] > 0
    none = forecast_correlation(frame, damage, predictor="overlap", resamples=300).set_index(["scope", "outcome"])
    assert none.loc[("all pairs", "fall"), "low"] < 0 < none.loc[("all pairs", "fall"), "high"]


def test_edits_are_resampled_whole() -> None:
    """Forty copies of one edit's facts say no more than one does."""
    frame, damage = tables(2, 20, noise=0.5)
    one = forecast_correlation(*(table[table["edit"] == 0] for table in (frame, damage)), resamples=200)
    assert set(one["scope"]) == {"all pairs"}
    copies = [pd.concat([table[table["edit"] == 0].assign(edit=i) for i in range(40)]) for table in (frame, damage)]
    many = forecast_correlation(*copies, resamples=200).set_index(["scope", "outcome"]).loc[("all pairs", "fall")]
    assert many["low"] == pytest.approx(many["high"]) == pytest.approx(one.set_index("outcome").loc["fall", "estimate"])


def test_tables_that_do_not_belong_together_are_refused() -> None:
    frame, damage = tables(2, 5, noise=0.5)
    with pytest.raises(UsageError, match=r"not of the same edits and facts \(edit 1 and 'r4' are in one of them\)"):
        forecast_correlation(frame, damage.iloc[:-1])
    with pytest.raises(UsageError, match="predictor='fall' is no column of a forecast"):
        forecast_correlation(frame, damage, predictor="fall")
    edited = frame["kin"] == "edited"
    with pytest.raises(UsageError, match="all facts are the edited ones"):
        forecast_correlation(frame[edited], damage[edited])
