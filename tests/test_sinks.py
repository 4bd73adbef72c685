"""Attention sinks are found, and whoever traces or edits a subject that stands at one is told."""

from __future__ import annotations

import pytest
import torch
from support.tokenizers import SENTENCES
from support.zoo import sentence_model
from test_moments import keys_one_by_one

import mechinterp as mi
from mechinterp.analysis import diagnose
from mechinterp.cli.model_checks import findings
from mechinterp.editing import EditRequest, RomeHparams, SecondMoment, edit_each, memit, rome
from mechinterp.models.model import Model
from mechinterp.patching.plain.sinks import first_token_sinks, key_norms, random_rows, sinks_of

LAYER = 1


@pytest.fixture(scope="module")
def sinking() -> Model:
    """At position 0, and nowhere else, one unit of one layer fires, and more than all others together."""
    model = sentence_model("gpt2")
    sink(model)
    return model


def sink(model: Model) -> None:
    hf = model.bridge.original_model
    with torch.no_grad():
        hf.transformer.wpe.weight[0, 0] += 1e4
        up = hf.transformer.h[LAYER].mlp.c_fc
        up.weight[0, 0], up.bias[0] = 1e4, -5e4


def test_norms_are_those_of_the_keys(sinking: Model) -> None:
    ids = [sinking.encode(text)[:8] for text in SENTENCES]
    found = key_norms(sinking, ids, [0, LAYER])
    assert found.shape == (2, len(SENTENCES), 8)
    for layer in (0, LAYER):
        wanted = keys_one_by_one(sinking, [sinking.decode(row) for row in ids], layer).norm(dim=-1)
        assert torch.allclose(found[layer].flatten(), wanted, rtol=1e-4)


def test_a_sink_is_found_where_it_was_put(sinking: Model) -> None:
    [found] = [one for one in sinks_of(sinking) if one.layer == LAYER]
    assert found.first
    assert found.ratio > 20
    ratios = first_token_sinks(sinking)
    norms = key_norms(sinking, random_rows(sinking, rows=8, length=16), [LAYER])[0]
    assert ratios[LAYER] == pytest.approx(float(norms[:, 0].min() / norms[:, 1:].median()))
    assert first_token_sinks(sentence_model("llama", adds_bos=True)) == {}
    assert LAYER not in {one.layer for one in sinks_of(sentence_model("gpt2"))}


def test_check_names_it(sinking: Model) -> None:
    [found] = [one for one in findings(sinking) if one.what == "attention sinks"]
    assert found.served
    assert f"layers {LAYER}" in found.detail
    assert "the first token of every text" in found.detail
    assert "prepend=" in found.detail
    assert sinks_of(mi.load("atlas")) == []


def test_a_trace_of_subjects_at_the_sink_says_so(sinking: Model) -> None:
    prompts = [
        mi.Prompt("{} was born in", "Marie Curie", "Warsaw"),
        mi.Prompt("The capital of {} is", "France", "Paris"),
    ]
    table = mi.trace(sinking, prompts, kinds=("mlp",), severed=(), draws=2, noise_level=1.0, progress=False)
    [warning] = [text for text in table.meta["warnings"] if "attention sink" in text]
    assert warning.startswith("in 1 of 2 prompts the subject begins at position 0, where small-gpt2 has its attention")
    assert "prepend='bos' or 'eos'" in warning
    assert warning in [finding.sentence for finding in diagnose(table)]
    inside = mi.trace(sinking, prompts[1:], kinds=("mlp",), severed=(), draws=2, noise_level=1.0, progress=False)
    assert not any("attention sink" in text for text in inside.meta["warnings"])


def test_an_edit_at_the_sink_says_so(sinking: Model) -> None:
    first = EditRequest(mi.Prompt("{} is in downtown", "The"), "Paris")
    inside = EditRequest(mi.Prompt("The capital of {} is", "France"), "Rome")
    moments = {
        layer: SecondMoment.collect(sinking, SENTENCES * 5, layer, progress=False).repaired("ridge")
        for layer in (0, LAYER)
    }
    given = {"moments": moments, "contexts": ("{}",), "allow_disabling": True}
    hparams = RomeHparams(steps=1)
    edit = rome(sinking, first, LAYER, hparams=hparams, **given)
    [said] = [text for text in edit.report.warnings if "attention sink" in text]
    assert "stands at position 0" in said
    assert f"(layer {LAYER}: keys up to" in said
    for request, layer in ((inside, LAYER), (first, 0)):
        edit = rome(sinking, request, layer, hparams=hparams, **given)
        assert not any("attention sink" in text for text in edit.report.warnings)
    chosen = memit.presets["default"].with_(steps=1)
    batch = memit(sinking, [first, inside], [0, LAYER], hparams=chosen, **given)
    assert any("attention sink" in text for text in batch.report.warnings)
    one, other = edit_each(sinking, "rome", [first, inside], LAYER, hparams=hparams, progress=False, **given)
    assert [any("sink" in text for text in edit.report.warnings) for edit in (one, other)] == [True, False]
