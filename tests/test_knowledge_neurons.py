"""Knowledge neurons: integrated gradients against a loop, against what they must sum to, and what is then rewritten."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import pytest
import torch
from oracles.gradient_oracle import Asked, attributions, probability
from oracles.rome_oracle import Weights, gpt2
from support.zoo import sentence_model

import mechinterp as mi
from mechinterp.editing import EDITORS, Edit, EditRequest, edit_each
from mechinterp.editing.editors.kn import KN_PRESETS as PRESETS
from mechinterp.editing.editors.kn import KnHparams, kn, knowledge_neurons
from mechinterp.editing.gradients.integrated_gradients import integrated_gradients
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.facts.prompts import Prompt
from mechinterp.models.layout import clean_state_dict
from mechinterp.models.model import Model
from mechinterp.patching.plain.executor import HookWrite, forward

PROMPT = Prompt("The capital of {} is", "Poland")
OTHERS = ("{} is governed from", "People of {} spoke about the")
FEW = KnHparams(steps=3, max_essence=None)


@cache
def model_of(kind: str = "gpt2") -> Model:
    """Booted once: nothing here changes weights."""
    return sentence_model(kind, dtype=torch.float64)


def weights() -> Weights:
    state = {name: tensor.detach() for name, tensor in clean_state_dict(model_of().bridge.original_model).items()}
    return Weights(state, heads=4, layers=4)


def asked(answer: str) -> Asked:
    return Asked(model_of().encode(PROMPT.text), list(model_of().answer_ids(PROMPT.text, answer)))


@pytest.mark.parametrize("answer", ["rain", "the river"])
def test_credit_is_the_loops(answer: str) -> None:
    question = asked(answer)
    found = integrated_gradients(model_of(), PROMPT, question.target, [0, 2, 3], steps=4)
    for place, layer in enumerate([0, 2, 3]):
        wanted = attributions(weights(), question, layer, 4)
        assert (found[place] - wanted).norm() < 1e-9 * wanted.norm()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "opt"])  # not behind a norm of its own, which undoes scales
def test_credit_sums_to_what_the_layer_changes(kind: str) -> None:
    """Completeness: P(w̄) − P(0), the better the more steps."""
    model = model_of(kind)
    layers, ids = list(range(model.n_layers)), torch.tensor([model.encode(PROMPT.text)])
    own = int(model.logits(ids, keep=1)[0, -1].argmax())

    def prob(*writes: HookWrite) -> float:
        return float(forward(model, ids, writes).logits[0, -1].softmax(-1)[own])

    def without(layer: int) -> float:
        zero, last = torch.zeros(1, model.d_mlp, dtype=torch.float64), torch.tensor([ids.shape[1] - 1])
        return prob(HookWrite(model.layout.key_hook(layer), torch.tensor([0]), last, zero))

    wanted = torch.tensor([prob() - without(layer) for layer in layers], dtype=torch.float64)
    errors = [
        float((integrated_gradients(model, PROMPT, [own], layers, steps=steps).sum(1) - wanted).abs().max())
        for steps in (5, 100)
    ]
    assert errors[1] < 0.02 * float(wanted.abs().max())
    assert errors[1] < 0.1 * errors[0]


def test_the_loop_puts_keys_where_they_belong() -> None:
    """Its own key put in place of itself changes nothing."""
    question = asked("rain")
    own = gpt2(weights(), question.prompt, 1).keys[-1]
    plain = gpt2(weights(), question.prompt, 1).logits[-1].softmax(-1)[question.target[0]]
    assert probability(weights(), question.prompt, question.target[0], 1, own) == pytest.approx(float(plain))


@pytest.mark.parametrize("max_rows", [1, 5, 1000])
def test_batches_change_nothing(max_rows: int) -> None:
    target = asked("the river").target
    whole = integrated_gradients(model_of(), PROMPT, target, [0, 1, 2, 3], steps=3)
    parts = integrated_gradients(model_of(), PROMPT, target, [0, 1, 2, 3], steps=3, max_rows=max_rows)
    assert torch.allclose(whole, parts, atol=1e-14)


def test_neurons_are_those_above_the_threshold() -> None:
    model = model_of()
    credit = integrated_gradients(model, PROMPT, asked("rain").target, [0, 1, 2, 3], steps=3)
    found = knowledge_neurons(model, PROMPT.with_answer("rain"), hparams=FEW.with_(threshold=0.4))
    assert {tuple(place) for place in (credit > 0.4 * credit.max()).nonzero().tolist()} == set(found)
    below = knowledge_neurons(model, PROMPT.with_answer("rain"), [0, 1], hparams=FEW.with_(threshold=0.4))
    assert {layer for layer, _ in below} <= {0, 1}
    own = int(model.logits(torch.tensor([model.encode(PROMPT.text)]), keep=1)[0, -1].argmax())
    credit = integrated_gradients(model, PROMPT, [own], [0, 1, 2, 3], steps=3)
    without_answer = knowledge_neurons(model, PROMPT, hparams=FEW)
    assert {tuple(place) for place in (credit > FEW.threshold * credit.max()).nonzero().tolist()} == set(without_answer)


def test_several_prompts_keep_what_they_share() -> None:
    model, loose = model_of(), FEW.with_(threshold=0.02)
    each = [
        set(knowledge_neurons(model, Prompt(template, "Poland", "rain"), hparams=loose))
        for template in (PROMPT.template, *OTHERS)
    ]
    question = PROMPT.with_answer("rain")
    most = knowledge_neurons(model, question, hparams=loose.with_(shared=0.5), templates=OTHERS)
    every = knowledge_neurons(model, question, hparams=loose.with_(shared=0.9), templates=OTHERS)
    assert set(every) == each[0] & each[1] & each[2]
    assert set(most) == (each[0] & each[1]) | (each[0] & each[2]) | (each[1] & each[2])
    assert set(every) < set(most) < each[0] | each[1] | each[2]
    repeated = knowledge_neurons(model, question, hparams=loose, templates=(PROMPT.template,))
    assert set(repeated) == each[0]  # the same template again is no second witness


def test_their_rows_are_rewritten_and_no_other() -> None:
    model, before = model_of(), model_of().fingerprint()
    request = EditRequest(PROMPT.with_answer("rain"), "the river")
    hparams = FEW.with_(old=1.0, new=8.0)
    edit = kn(model, [request], hparams=hparams)
    table = weights()["wte.weight"]
    old, new = (table[asked(words).target].mean(0) for words in ("rain", "the river"))
    neurons = set(knowledge_neurons(model, request, hparams=hparams))
    for layer in edit.layers:
        units = [unit for where, unit in neurons if where == layer]
        delta = edit.delta(layer)
        assert torch.allclose(delta[units], (8 * new - old).expand(len(units), -1))
        delta[units] = 0
        assert not delta.any()
    assert {layer for layer, _ in neurons} == set(edit.layers)
    assert edit.provenance.method == "kn"
    assert model.fingerprint() == before


def test_several_requests_are_their_edits_side_by_side() -> None:
    model = model_of()
    requests = [
        EditRequest(PROMPT.with_answer("rain"), "music"),
        EditRequest(Prompt("{} was born in", "Marie Curie", relation="born_in"), "Paris"),
    ]
    templates = {"born_in": ("The parents of {} lived in",)}
    both = kn(model, requests, hparams=FEW, templates=templates)
    single = [kn(model, [request], hparams=FEW, templates=templates) for request in requests]
    for layer in both.layers:
        wanted = sum((edit.delta(layer) for edit in single if layer in edit.layers), torch.zeros(()))
        assert torch.allclose(both.delta(layer), wanted)


def test_it_takes_on_atlas() -> None:
    """The published factors, which overwhelm this model, and the default, which raises the target everywhere."""
    model, facts = mi.load("atlas"), mi.atlas.known_facts()[:30:10]
    for preset in ("paper", "default"):
        hparams = PRESETS[preset].with_(max_essence=None)
        edits = edit_each(model, EDITORS["kn"], facts, hparams=hparams, progress=False)
        outcomes = [edit.report.outcomes[0] for edit in edits if isinstance(edit, Edit)]  # type: ignore[union-attr]
        assert len(outcomes) == 3
        assert all(outcome.target_after > 3 * outcome.target_before for outcome in outcomes)
        assert preset == "default" or all(outcome.success for outcome in outcomes)


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="threshold is 1; it is a share below 1"):
        KnHparams(threshold=1)
    with pytest.raises(UsageError, match="layer 9 is out of range"):
        knowledge_neurons(model_of(), PROMPT, [9])
    assert PRESETS["paper"].new == 8.0
    nothing = torch.zeros(4, model_of().d_mlp, dtype=torch.float64)
    module = import_module("mechinterp.editing.editors.kn")
    monkeypatch.setattr(module, "integrated_gradients", lambda *args, **more: nothing)
    with pytest.raises(MechinterpError, match="no unit carries 'The capital of Poland is' in more than 0.5 of its 1"):
        knowledge_neurons(model_of(), PROMPT)


def test_a_disabling_edit_is_refused() -> None:
    model, facts = mi.load("atlas"), mi.atlas.known_facts()[:300:20]
    with pytest.raises(MechinterpError, match="by kn would disable the model: after '{} is a' the subjects"):
        kn(model, facts, hparams=PRESETS["paper"].with_(steps=3))
    assert kn(model, facts, hparams=PRESETS["paper"].with_(steps=3), allow_disabling=True).report.disabling
    assert not kn(model, facts, hparams=PRESETS["default"].with_(steps=3)).report.disabling
    with pytest.raises(UsageError, match="max_essence is 0; it must be above 0"):
        KnHparams(max_essence=0)
