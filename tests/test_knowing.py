"""Which facts a model knows: what it says by itself, token by token, written out; and what is recorded of atlas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import mechinterp as mi
from mechinterp import Fact, Model, Prompt, UsageError, analysis, atlas


@pytest.fixture(scope="module")
def model() -> Model:
    return mi.load("atlas")


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    """Known ones, those that are recorded as unknown, and known ones with an answer of several tokens that is wrong."""
    known = [fact for fact in atlas.facts() if fact.known][:9]
    unknown = [fact for fact in atlas.facts() if fact.known is False][:3]
    wrong = [Fact(replace(fact.prompt, answer=f"{fact.answer} Tarsk", id=f"wrong {fact.id}")) for fact in known[:2]]
    return [*known, *unknown, *wrong]


def greedy(model: Model, text: str, tokens: int) -> list[int]:
    """The most probable token, again and again."""
    ids = model.encode(text)
    for _ in range(tokens):
        ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    return ids[-tokens:]


def test_known_is_what_greedy_decoding_says(model: Model, facts: list[Fact]) -> None:
    frame = analysis.known(model, facts, progress=False)
    for fact, row in zip(facts, frame.itertuples(), strict=True):
        wanted = model.answer_ids(fact.prompt, fact.answer or "")
        said = greedy(model, fact.prompt.text, len(wanted))
        assert row.known == (tuple(said) == wanted), fact
        assert row.known == bool(fact.known), "it is recorded otherwise"
        assert row.id == fact.id
    assert frame["said"][0] == facts[0].answer
    assert np.allclose(frame["prob"], analysis.score_answers(model, facts)["joint_prob"])


def test_a_sample_of_known_facts_stops_when_there_are_enough(
    model: Model, facts: list[Fact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mechinterp.analysis.evaluation.knowing._AT_ONCE", 2)
    all_known = {fact.id for fact in facts if fact.known}
    found, asked = analysis.some_known(model, facts, 2, seed=3, progress=False)
    assert len(found) == 2
    assert {fact.id for fact in found} <= all_known
    assert asked < len(facts)
    assert analysis.some_known(model, facts, 2, seed=3, progress=False) == (found, asked)
    everything, asked = analysis.some_known(model, facts, 100, progress=False)
    assert asked == len(facts)
    assert {fact.id for fact in everything} == all_known


def test_nothing_and_facts_without_an_answer(model: Model) -> None:
    empty = analysis.known(model, [], progress=False)
    assert list(empty.columns) == ["id", "text", "answer", "known", "prob", "said"]
    with pytest.raises(UsageError, match="the fact 'Marie Curie is' has no answer, so nobody can say whether it is"):
        analysis.known(model, [Fact(Prompt("{} is", "Marie Curie"))], progress=False)
