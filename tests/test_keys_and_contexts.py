"""Where a value is written and under which contexts it is sought: two questions with an answer each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.tokenizers import SENTENCES
from support.zoo import sentence_model, small_model

from mechinterp.editing import EDITORS, EditRequest, RomeHparams, RomeReport, SecondMoment, memit, r_rome, rome
from mechinterp.editing.editors import rome as rome_module
from mechinterp.editing.editors.rome import ROME
from mechinterp.editing.judging.written_at import WrittenAt
from mechinterp.editing.rows.contexts import PLAIN_CONTEXTS
from mechinterp.editing.rows.subjects import KEY_RULES, over_contexts
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.facts.prompts import Prompt
from mechinterp.models.model import Model

REQUEST = EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris")
CONTEXTS = ("{}", "In the evening {}", "People spoke about the river. {}")
FAST = {"steps": 2, "max_essence": None, "max_disturbance": 1e9, "key_ratio_band": (0.0, 1e9)}


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model("gpt2", dtype=torch.float64)


@pytest.fixture(scope="module")
def moments(model: Model) -> SecondMoment:
    return SecondMoment.collect(model, SENTENCES * 5, 1, progress=False).repaired("shrinkage", 0.1)


def keys_in_contexts(model: Model, contexts: tuple[str, ...]) -> torch.Tensor:
    """By a hook of PyTorch on Hugging Face's own module, one prompt at a time."""
    found = []
    for context in contexts:
        tokenised = model.tokenise(REQUEST.prompt.in_context(context))
        handle = model.bridge.original_model.transformer.h[1].mlp.c_proj.register_forward_pre_hook(
            lambda module, args, at=tokenised.subject[1] - 1: found.append(args[0].reshape(-1, model.d_mlp)[at])
        )
        with torch.no_grad():
            model.bridge.original_model(torch.tensor([tokenised.ids]))
        handle.remove()
    return torch.stack(found)


@pytest.mark.parametrize("rule", [*KEY_RULES, "mixed"])
def test_the_value_is_answered_where_it_was_written(model: Model, moments: SecondMoment, rule: str) -> None:
    keys = keys_in_contexts(model, CONTEXTS)
    mean, half = keys.mean(0), (keys[0] + (keys[1] + keys[2]) / 2) / 2
    along = {"bare": keys[0], "mean": mean, "half": half, "mixed": mean}[rule]
    at = keys[0] if rule == "mixed" else along
    edit = rome(model, REQUEST, 1, moments=moments, contexts=CONTEXTS, hparams=RomeHparams(keys=rule, **FAST))
    report, delta = edit.report, edit.delta(1).double()
    assert isinstance(report, RomeReport)
    u = moments.solve(along)
    assert report.key_ratio == pytest.approx(float((keys[0] @ u) / (along @ u)), rel=1e-5)
    added = at @ delta
    assert torch.allclose(delta, torch.outer(u, added) / float(at @ u), atol=1e-6 * float(delta.abs().max()))
    exact = {"bare": "bare", "mixed": "bare", "mean": "mean"}.get(rule)
    assert (report.error_at_bare_key < 1e-5) == (exact == "bare")
    assert (report.error_at_mean_key < 1e-5) == (exact == "mean")
    # What is missing at the bare key was known before the value was sought.
    written = ROME.written_at(
        ROME.job(model, REQUEST, 1, moments=moments, contexts=CONTEXTS, hparams=edit_hparams(rule))
    )
    assert written.ratio(moments) == pytest.approx(report.key_ratio, rel=1e-5)
    assert written.missed(moments) == pytest.approx(abs(1 - float((keys[0] @ u) / (at @ u))), abs=1e-6)
    assert float((keys[0] @ delta - added).norm() / added.norm()) == pytest.approx(written.missed(moments), abs=1e-5)


def edit_hparams(rule: str) -> RomeHparams:
    return RomeHparams(keys=rule, **FAST)


def test_keys_have_contexts_of_their_own(model: Model, moments: SecondMoment) -> None:
    hparams = RomeHparams(keys="mean", key_contexts=CONTEXTS, **FAST)
    edit = rome(model, REQUEST, 1, moments=moments, contexts=("{}",), hparams=hparams)
    u = moments.solve(keys_in_contexts(model, CONTEXTS).mean(0))
    assert torch.nn.functional.cosine_similarity(edit.weights.factors["down", 1].u[0].double(), u, dim=0) > 1 - 1e-9
    assert edit.provenance.contexts == ("{}",)
    assert edit.provenance.hparams["key_contexts"] == list(CONTEXTS)
    same = rome(model, REQUEST, 1, moments=moments, contexts=CONTEXTS, hparams=replace(hparams, key_contexts=()))
    assert torch.nn.functional.cosine_similarity(edit.delta(1).flatten(), same.delta(1).flatten(), dim=0) < 1 - 1e-9


def test_a_ratio_out_of_band_is_refused_before_the_value(
    model: Model, moments: SecondMoment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: Any, **more: Any) -> None:
        raise AssertionError("the value was sought")

    monkeypatch.setattr(rome_module, "values_of", never)
    tight = RomeHparams(keys="mean", key_ratio_band=(1.5, 2.0))
    given = {"moments": moments, "contexts": CONTEXTS}
    with pytest.raises(MechinterpError, match=r"would disable the model: the bare prompt's key has .*keys='bare'"):
        rome(model, REQUEST, 1, hparams=tight, **given)
    with pytest.raises(AssertionError, match="the value was sought"):
        rome(model, REQUEST, 1, hparams=tight.with_(keys="bare", key_ratio_band=(0.9, 1.1)), **given)
    with pytest.raises(AssertionError, match="the value was sought"):
        rome(model, REQUEST, 1, hparams=tight, allow_disabling=True, **given)


def test_by_default_the_contexts_are_plain_sentences(model: Model) -> None:
    for name in ("rome", "r-rome", "memit", "alphaedit", "pmet", "emmet"):
        method = EDITORS[name]
        default = method.presets["default"]
        assert default.keys == "bare"
        assert method.contexts(model, default, None, 0) == PLAIN_CONTEXTS
        assert method.contexts(model, default, ["{}"], 0) == ("{}",)
        assert all(not one.value_contexts for name, one in method.presets.items() if name != "default")
    for method in (ROME, memit):
        published = method.contexts(model, method.presets["code"], None, 0)
        assert not set(published) & set(PLAIN_CONTEXTS[1:])
        assert len(published) > 3
    words = memit.contexts(small_model(), memit.presets["default"], None, 0)  # a vocabulary of 34 words
    assert words[0] == "{}"
    assert not set(words) & set(PLAIN_CONTEXTS[1:])
    assert r_rome.presets["default"] == ROME.presets["default"]


def test_nothing_is_said_to_be_drawn_where_nothing_was(model: Model, moments: SecondMoment) -> None:
    hparams = RomeHparams(**FAST)
    assert rome(model, REQUEST, 1, moments=moments, hparams=hparams).provenance.seed is None
    drawn = hparams.with_(value_contexts=(), context_lengths=((1, 3),))
    assert rome(model, REQUEST, 1, moments=moments, hparams=drawn, seed=3).provenance.seed == 3


@pytest.mark.parametrize("name", ["value_contexts", "key_contexts"])
def test_contexts_in_hyper_parameters_are_templates(name: str, unchecked_types: None) -> None:
    for wrong, sentence in (
        (("By the way, {}",), "the first context must be '{}'"),
        (("{}", "no place"), "must hold exactly one '{}'"),
        ("{}", f"{name} is one string"),
    ):
        with pytest.raises(UsageError) as error:
            RomeHparams(**{name: wrong})
        assert sentence in str(error.value)


def test_a_rate_without_unit_that_does_not_suit_is_said(model: Model, moments: SecondMoment) -> None:
    wild = ROME.presets["code"].with_(lr=50.0, **FAST)
    report = rome(model, REQUEST, 1, moments=moments, contexts=CONTEXTS, hparams=wild, allow_disabling=True).report
    [said] = [text for text in report.warnings if "absolute learning rate" in text]
    assert f"in {report.clamped_steps} of {report.steps} steps: each step of the absolute learning rate 50" in said
    mild = RomeHparams(**FAST)
    report = rome(model, REQUEST, 1, moments=moments, contexts=CONTEXTS, hparams=mild, allow_disabling=True).report
    assert not any("absolute learning rate" in text for text in report.warnings)
    batch = memit(
        model, [REQUEST], [1], moments=moments, contexts=CONTEXTS, allow_disabling=True,
        hparams=memit.presets["code"].with_(lr=50.0, steps=3),
    )  # fmt: skip
    assert any("absolute learning rate 50" in text for text in batch.report.warnings)


def test_rules_on_one_context_agree() -> None:
    read = torch.randn(4, 1, 6)
    for rule in KEY_RULES:
        assert torch.equal(over_contexts(read, rule), read[:, 0].double())
        assert torch.equal(WrittenAt.of(read[0], rule).at, read[0, 0].double())
