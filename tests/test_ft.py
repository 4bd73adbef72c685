"""Fine-tuning as an editor: against weights trained by PyTorch's own Adam, many at once against one by one."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import Any

import pytest
import torch
from oracles.gradient_oracle import Asked, Tuned, fine_tuned
from oracles.rome_oracle import Weights
from support.zoo import KINDS, sentence_model

import mechinterp as mi
from mechinterp.editing import EDITORS, BatchReport, Edit, EditRequest, EditSequence, edit_each
from mechinterp.editing.editors.ft_presets import FT_L_PRESETS, FT_LEGACY_PRESETS
from mechinterp.editing.edits.row_edits import RowEdits
from mechinterp.editing.gradients import descent
from mechinterp.editing.gradients.descent import FtHparams
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.facts.prompts import Prompt
from mechinterp.models.layout import DOWN_BIAS, clean_state_dict
from mechinterp.models.model import Model

REQUESTS = [
    EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris"),
    EditRequest(Prompt("The capital of {} is", "Poland"), "the river"),
    EditRequest(Prompt("In the evening, people of {} spoke about the", "Seattle"), "loud and soft music"),
]
QUICK = FtHparams(steps=4, lr=0.02)
ATLAS_FACTS = 10


@cache
def atlas() -> Model:
    return mi.load("atlas")


@cache
def model_of(kind: str = "gpt2", dtype: torch.dtype = torch.float64) -> Model:
    """Booted once: nothing here changes weights."""
    return sentence_model(kind, dtype=dtype)


PLAIN = FtHparams()


def ft(model: Model, requests: Any, layers: Any = None, *, hparams: FtHparams = PLAIN, **given: Any) -> Edit:
    """By the editor that the hyper-parameters belong to."""
    return EDITORS[hparams.variant](model, requests, layers, hparams=hparams, **given)


def ft_each(model: Model, requests: Any, layers: Any, *, hparams: FtHparams) -> list[Any]:
    return edit_each(
        model, EDITORS[hparams.variant], requests, layers, hparams=hparams, allow_disabling=True, progress=False
    )


def oracle(requests: list[EditRequest], layers: list[int], hparams: FtHparams) -> Tuned:
    model = model_of()
    state = {name: tensor.detach() for name, tensor in clean_state_dict(model.bridge.original_model).items()}
    asked = [
        Asked(list(model.encode(each.prompt.text)), list(model.answer_ids(each.prompt.text, each.target)))
        for each in requests
    ]
    return fine_tuned(
        Weights(state, heads=4, layers=4), asked, layers, lr=hparams.lr, steps=hparams.steps, stop=hparams.stop_loss,
        epsilon=hparams.epsilon, last=hparams.loss == "last",
    )  # fmt: skip


def gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def nlls(edit: Edit) -> list[tuple[Any, Any]]:
    assert isinstance(edit.report, BatchReport)
    return [(outcome.nll_first, outcome.nll_last) for outcome in edit.report.outcomes]


def mean(figures: list[float]) -> float:
    return sum(figures) / len(figures)


@pytest.mark.parametrize(
    ("layers", "hparams"),
    [
        ([1], QUICK),
        ([1, 2], QUICK.with_(epsilon=0.03)),
        ([0], QUICK.with_(epsilon=0.03, loss="last")),
        ([3], QUICK.with_(steps=40, stop_loss=5.0)),
    ],
)
def test_it_is_adam_on_the_weights(layers: list[int], hparams: FtHparams) -> None:
    wanted = oracle(REQUESTS, layers, hparams)
    edit = ft(model_of(), REQUESTS, layers, hparams=hparams)
    assert edit.layers == tuple(layers)
    for layer in layers:
        assert gap(edit.delta(layer), wanted.deltas[layer]) < 1e-6
        if hparams.epsilon is not None:
            assert edit.delta(layer).abs().max() == pytest.approx(hparams.epsilon)
    found = nlls(edit)
    assert mean([first for first, _ in found]) == pytest.approx(wanted.losses[0], abs=1e-8)
    assert mean([last for _, last in found]) == pytest.approx(wanted.losses[-1], abs=1e-6)
    if hparams.steps == 40:
        assert 1 < len(wanted.losses) < 40  # it stopped early, both times at the same step


def test_the_published_loss_is_another_one_beyond_one_token() -> None:
    """It lowers the loss of tokens that are to follow the prompt at once, which says little about the target."""
    correct = QUICK.with_(steps=40, lr=0.1)
    assert len(model_of().answer_ids(REQUESTS[1].prompt.text, REQUESTS[1].target)) > 1
    made = [ft(model_of(), REQUESTS[1:2], [1], hparams=hparams) for hparams in (correct, correct.with_(loss="last"))]
    after = [edit.report.outcomes[0].target_after for edit in made if isinstance(edit.report, BatchReport)]
    assert after[0] > 0.4
    assert after[1] < 1e-4
    assert made[0].report.success
    assert not made[1].report.success


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_many_is_what_it_is_alone(kind: str) -> None:
    model, hparams = model_of(kind), QUICK.with_(epsilon=0.05)
    together = ft_each(model, REQUESTS, [1, 2], hparams=hparams)
    for found, request in zip(together, REQUESTS, strict=True):
        alone = ft(model, [request], [1, 2], hparams=hparams)
        # The others compute norms or attention's softmax in float32, whatever their weights are.
        tolerance = 1e-6 if kind in ("gpt2", "neox") else 1e-2
        assert all(gap(found.delta(layer), alone.delta(layer)) < tolerance for layer in (1, 2))
        assert found.provenance.requests == (request,)
        assert found.provenance.hparams == alone.provenance.hparams


def test_each_stops_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    model, hparams = model_of(), QUICK.with_(steps=30, stop_loss=2.0)
    two = 2 * model.d_mlp * model.d_model
    monkeypatch.setattr(import_module("mechinterp.editing.editors.ft"), "_MAX_WEIGHTS", two)
    together = ft_each(model, REQUESTS, [1], hparams=hparams)
    for found, request in zip(together, REQUESTS, strict=True):
        alone = ft(model, [request], [1], hparams=hparams)
        assert gap(found.delta(1), alone.delta(1)) < 1e-6
        [(first, last)] = nlls(found)
        assert last < 2.0 < first


def test_rows_in_several_forwards_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ft(model_of(), REQUESTS, [1], hparams=QUICK)
    monkeypatch.setattr(descent, "_MAX_ROWS", 1)
    assert gap(ft(model_of(), REQUESTS, [1], hparams=QUICK).delta(1), whole.delta(1)) < 1e-8


def test_relative_figures_are_in_units_of_the_weights() -> None:
    model = model_of()
    unit = float(model.layout.down_projection(1).detach().square().mean().sqrt())
    relative = ft(model, REQUESTS, [1], hparams=QUICK.with_(lr_rule="relative", lr=0.1, epsilon=0.2))
    absolute = ft(model, REQUESTS, [1], hparams=QUICK.with_(lr=0.1 * unit, epsilon=0.2 * unit))
    assert gap(relative.delta(1), absolute.delta(1)) < 1e-9


def test_the_model_is_left_as_it_was_and_edits_on_take_part() -> None:
    model = model_of()
    before = model.fingerprint()
    sequence = EditSequence(model, EDITORS["ft"], [1], hparams=QUICK)
    first, second = sequence.add(REQUESTS[:1]), sequence.add(REQUESTS[1:2])
    assert model.fingerprint() == before
    assert second.provenance.on_top_of == (first.parts[0].digest,)
    undo = first.bake(model)
    third = ft(model, REQUESTS[1:2], [1], hparams=QUICK)
    undo.undo()
    assert gap(second.delta(1), third.delta(1)) < 1e-6
    assert model.fingerprint() == before


def test_bad_input_is_named() -> None:
    model = model_of()
    with pytest.raises(UsageError, match="no published layers of ft-l are known for small-gpt2"):
        EDITORS["ft-l"](model, REQUESTS)
    with pytest.raises(UsageError, match="contradict each other"):
        ft(model, [REQUESTS[0], EditRequest(REQUESTS[0].prompt, "rain")], [1])
    with pytest.raises(UsageError, match="epsilon is 0; it must be above 0"):
        FtHparams(epsilon=0)
    with pytest.raises(UsageError, match="loss is 'all'; choose one of targets, last"):
        FtHparams(loss="all")
    with pytest.raises(MechinterpError, match=r"the loss became (nan|inf) after 1 steps for 'Marie Curie was born in'"):
        ft(model, REQUESTS[:1], [1], hparams=QUICK.with_(lr=1e308))


def test_the_names_of_the_variants() -> None:
    assert {name: EDITORS[name].presets["default"].variant for name in ("ft", "ft-l", "ft-legacy")} == {  # type: ignore[attr-defined]
        "ft": "ft", "ft-l": "ft-l", "ft-legacy": "ft-legacy",
    }  # fmt: skip
    assert {name: hparams.epsilon for name, hparams in FT_L_PRESETS.items() if name != "default"} == {
        "gpt2-medium": 2e-3, "gpt2-large": 1e-3, "gpt2-xl": 5e-4, "gpt-j": 5e-5,
    }  # fmt: skip
    for name, hparams in FT_L_PRESETS.items():
        assert FT_LEGACY_PRESETS[name].with_(tune_bias=False) == hparams.with_(loss="last")


def test_the_published_ft_has_the_published_loss() -> None:
    """Meng et al. 2022: Adam with 5e-4, 25 steps, until 1e-2, no bound, all target tokens at the last position."""
    published = EDITORS["ft-legacy"].chosen("published-ft")
    assert isinstance(published, FtHparams)
    assert published == FtHparams(
        steps=25, lr=5e-4, stop_loss=1e-2, epsilon=None, loss="last", tune_bias=True, max_essence=None
    )
    published = EDITORS["ft-legacy"].chosen("weight-only")
    assert isinstance(published, FtHparams)
    assert EDITORS["ft"].chosen("published-figures") == published.with_(loss="targets")
    assert all(preset.max_essence is None for name, preset in FT_LEGACY_PRESETS.items() if name != "default")
    wanted = oracle(REQUESTS, [1], published)
    found = ft(model_of(), REQUESTS, [1], hparams=published)
    assert gap(found.delta(1), wanted.deltas[1]) < 1e-6


@pytest.mark.parametrize(("lr", "why"), [(0.5, "after '{} is a' the subjects are others"), (1e20, "is not finite")])
def test_a_disabling_edit_is_refused(lr: float, why: str) -> None:
    model, facts = atlas(), mi.atlas.known_facts()[:40:20]
    wild = FtHparams(steps=1, lr=lr, max_essence=5.0)
    with pytest.raises(MechinterpError, match=f"by ft would disable the model: .*{re.escape(why)}"):
        ft(model, facts, [3], hparams=wild)
    kept = ft(model, facts, [3], hparams=wild, allow_disabling=True)
    assert isinstance(kept.report, BatchReport)
    assert why in kept.report.disabling
    assert all(why in edit.report.disabling for edit in ft_each(model, facts, [3], hparams=wild))


@pytest.mark.parametrize("name", ["ft", "ft-l"])
def test_the_default_takes_on_atlas(name: str) -> None:
    model, facts = atlas(), mi.atlas.known_facts()[: 20 * ATLAS_FACTS : 20]
    hparams = EDITORS[name].presets["default"].with_(steps=60)  # a straggler may take all 200
    edits = edit_each(model, EDITORS[name], facts, hparams=hparams, progress=False)
    made = [edit for edit in edits if isinstance(edit, Edit)]
    assert len(made) == ATLAS_FACTS
    assert all(edit.report.success and not edit.report.disabling and edit.layers == (3,) for edit in made)


def test_a_failure_says_how_far_it_came() -> None:
    edit = ft(model_of(), REQUESTS[2:], [1], hparams=QUICK.with_(steps=1, lr=1e-6))
    assert not edit.report.success
    assert "1 steps brought its NLL from" in edit.report.reason


def test_a_bias_is_tuned_kept_and_taken_back() -> None:
    """The published FT moves the bias too: on, baked, saved and carried by a row it is the same change."""
    model = model_of()
    edit = EDITORS["ft-legacy"](model, REQUESTS[:1], [1], preset="published-ft")
    assert edit.delta(1, DOWN_BIAS).shape == (1, model.d_model)
    assert float(edit.delta(1, DOWN_BIAS).abs().max()) > 1e-4
    ids = torch.tensor([model.encode(REQUESTS[0].prompt.text)])
    before = model.logits(ids)
    with edit.on(model):
        on = model.logits(ids)
    with RowEdits([edit]).on(model) as carried:
        carried.rows([0])
        assert torch.allclose(model.logits(ids), on, atol=1e-10)
    undo = edit.bake(model)
    assert torch.allclose(model.logits(ids), on, atol=1e-10)
    undo.undo()
    assert torch.equal(model.logits(ids), before)
