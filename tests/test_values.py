"""Values of many facts at once: each is what it is alone, whatever else is in the batch and whatever is left out."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from oracles.rome_oracle import Sentence, Weights, published_rome
from support.zoo import KINDS, sentence_model

from mechinterp.editing import EDITORS, EditRequest
from mechinterp.editing.gradients.adam import Adam
from mechinterp.editing.rows.padded import Batch
from mechinterp.editing.value import value
from mechinterp.editing.value.hparams import ValueHparams
from mechinterp.editing.value.shared_prefix import common_length, pairs_before
from mechinterp.editing.value.suffix import WAYS, best_way
from mechinterp.editing.value.value import Value, values_of
from mechinterp.editing.value.value_rows import ValueRows
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.facts.prompts import Prompt
from mechinterp.models.layout import ATTN, MLP, RESID, VALUE, clean_state_dict
from mechinterp.models.model import Model

PRESETS = EDITORS["rome"].presets

REQUESTS = [
    EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris"),
    EditRequest(Prompt("The capital of {} is", "Poland"), "the river"),
    EditRequest(Prompt("{} wrote about", "Ada Lovelace"), "rain"),
    EditRequest(Prompt("In the evening, people of {} spoke about the", "Seattle"), "music"),
    EditRequest(Prompt("The river near {} is", "The Space Needle"), "loud and soft"),
]
CONTEXTS = ("{}", "People spoke. {}", "In the evening {}")
QUICK = ValueHparams(steps=6, lr=0.5)


@cache
def model_of(kind: str = "gpt2", dtype: torch.dtype = torch.float64) -> Model:
    """Booted once: nothing here changes weights."""
    return sentence_model(kind, dtype=dtype)


def precision(kind: str) -> float:
    """The others compute norms or attention's softmax in float32, whatever their weights are."""
    return 1e-10 if kind in ("gpt2", "neox") else 1e-5


def many(model: Model, **more: Any) -> list[Value]:
    return values_of(model, REQUESTS, 1, **({"contexts": CONTEXTS, "hparams": QUICK, "progress": False} | more))


def one_by_one(model: Model, **more: Any) -> list[Value]:
    settings = {"contexts": CONTEXTS, "hparams": QUICK, "progress": False} | more
    return [values_of(model, [request], 1, **settings)[0] for request in REQUESTS]


def gap(found: Value, wanted: Value) -> float:
    return float((found.v_star - wanted.v_star).norm() / wanted.v_star.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_many_are_each_what_they_are_alone(kind: str) -> None:
    model = model_of(kind)
    for found, wanted in zip(many(model), one_by_one(model), strict=True):
        assert gap(found, wanted) < precision(kind)
        assert (found.keys - wanted.keys).norm() < precision(kind) * wanted.keys.norm()
        assert (found.steps, found.stopped_early, found.clamped_steps) == (
            wanted.steps,
            wanted.stopped_early,
            wanted.clamped_steps,
        )
        for mine, alone in zip(found.losses, wanted.losses, strict=True):
            assert mine.total == pytest.approx(alone.total, abs=10 * precision(kind))


@pytest.mark.parametrize("adds_bos", [False, True])
def test_so_they_are_in_single_precision(adds_bos: bool) -> None:
    model = sentence_model("gpt2", adds_bos=adds_bos)  # float32
    for found, wanted in zip(many(model), one_by_one(model), strict=True):
        assert gap(found, wanted) < 1e-5


@pytest.mark.parametrize(
    "hparams",
    [
        PRESETS["code"].with_(steps=8, clamp=0.5),
        PRESETS["paper"].with_(steps=8),
        ValueHparams(steps=8, kl_position="subject", weight_decay_rule="norm", clamp=1.0),
    ],
)
def test_every_rule_is_kept_apart(hparams: ValueHparams) -> None:
    model = model_of()
    found = many(model, hparams=hparams)
    for mine, wanted in zip(found, one_by_one(model, hparams=hparams), strict=True):
        assert gap(mine, wanted) < 1e-10
        assert mine.clamped_steps == wanted.clamped_steps
    if hparams.clamp is not None:
        assert any(mine.clamped_steps for mine in found)
        assert all(mine.delta.norm() <= hparams.clamp * mine.v0.norm() * (1 + 1e-9) for mine in found)


def test_each_stops_when_it_is_done() -> None:
    model = model_of()
    hparams = QUICK.with_(steps=20, stop_nll=6.2)
    found = many(model, hparams=hparams)
    assert len({mine.steps for mine in found}) > 2
    for mine, wanted in zip(found, one_by_one(model, hparams=hparams), strict=True):
        assert (mine.steps, mine.stopped_early) == (wanted.steps, wanted.stopped_early)
        assert len(mine.losses) == mine.steps + 1
        assert mine.stopped_early == (mine.losses[-1].nll < 6.2)
        assert all(terms.nll >= 6.2 for terms in mine.losses[:-1])
        assert gap(mine, wanted) < 1e-10


def test_they_are_the_oracles() -> None:
    model = model_of()
    state = {name: tensor.detach() for name, tensor in clean_state_dict(model.bridge.original_model).items()}

    def sentence(prompt: Prompt) -> Sentence:
        tokenised = model.tokenise(prompt)
        return Sentence(list(tokenised.ids), tokenised.subject[1] - 1)

    found = many(model, hparams=PRESETS["code"])
    for request, mine in zip(REQUESTS, found, strict=True):
        template, subject = request.prompt.template, request.subject
        wanted = published_rome(
            Weights(state, heads=4, layers=4),
            [sentence(Prompt(context.replace("{}", template), subject)) for context in CONTEXTS],
            sentence(Prompt("{} is a", subject)),
            list(model.answer_ids(request.prompt.text, request.target)),
            1,
            torch.eye(96, dtype=torch.float64),
        )
        assert (mine.v_star - wanted.v_star).norm() < 1e-9 * wanted.v_star.norm()
        assert [terms.total for terms in mine.losses] == pytest.approx(wanted.losses, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_out_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(kind)
    monkeypatch.setattr(value, "best_way", lambda *args: "whole")
    wanted = many(model)
    # Behind a norm of its own, what the down-projection writes is not what enters the next layer.
    for way in WAYS[1 if kind == "gemma2" else 0 : -1]:
        monkeypatch.setattr(value, "best_way", lambda *args, way=way: way)
        assert max(gap(mine, whole) for mine, whole in zip(many(model), wanted, strict=True)) < precision(kind)


def test_the_way_is_tried_first() -> None:
    def way(model: Model, layer: int, *sites: str) -> str:
        batch, _ = ValueRows.batch_of(model, REQUESTS[:1], CONTEXTS, QUICK)
        return best_way(model, batch, layer, tuple(model.layout.hook(site, layer) for site in sites))

    gpt2, gemma2 = model_of("gpt2"), model_of("gemma2")
    assert way(gpt2, 1, VALUE) == way(gpt2, 0, VALUE) == way(gpt2, 2, RESID) == "next"
    assert way(gpt2, 3, VALUE) == way(gpt2, 1, ATTN) == way(gpt2, 1, VALUE, ATTN) == "upper"
    assert way(gemma2, 1, VALUE) == "upper"
    assert way(gemma2, 1, MLP) == "next"


@pytest.mark.parametrize("max_tokens", [1, 60, 100_000])
def test_chunks_change_nothing(max_tokens: int) -> None:
    model = model_of()
    for found, wanted in zip(many(model, max_tokens=max_tokens), many(model), strict=True):
        assert gap(found, wanted) < 1e-10


def test_two_sites_are_optimised_together() -> None:
    model = model_of()
    both, alone = many(model, sites=(VALUE, ATTN)), many(model)
    for found, wanted in zip(both, one_by_one(model, sites=(VALUE, ATTN)), strict=True):
        assert gap(found, wanted) < 1e-10
    for found, single in zip(both, alone, strict=True):
        assert torch.allclose(found.v0, single.v0)
        assert found.losses[0].nll == pytest.approx(single.losses[0].nll)
        assert gap(found, single) > 1e-3  # attention takes its share


def test_at_the_layers_output_it_is_the_same_change_from_another_start() -> None:
    """Where the MLP adds to the residual, a δ after the layer acts as one at the MLP's output does."""
    model = model_of()
    scale_free = QUICK.with_(lr_rule="absolute", weight_decay=0.0, clamp=None)
    after, inside = many(model, hparams=scale_free, sites=(RESID,)), many(model, hparams=scale_free)
    for found, wanted in zip(after, inside, strict=True):
        assert torch.allclose(found.delta, wanted.delta, atol=1e-10)
        assert not torch.allclose(found.v0, wanted.v0)


def test_common_contexts_are_computed_once() -> None:
    model = model_of()
    batch, _ = ValueRows.batch_of(model, REQUESTS, ("{}", "People spoke about the river. {}"), QUICK)
    shared = common_length(batch.ids.view(5, 3, -1), batch.subject.view(5, 3))
    assert shared.tolist()[0] == shared.tolist()[2] == 0
    assert shared.tolist()[1] >= len(model.encode("People spoke about the river."))
    together = pairs_before(model, batch.ids, batch.subject, 3)
    for row in range(len(batch.ids)):
        start = int(batch.subject[row])
        single = Batch(batch.ids[[row]], batch.subject[[row]], batch.end[[row]], batch.length[[row]])
        for (keys, values), (own_keys, own_values) in zip(
            together, pairs_before(model, single.ids, single.subject, 1), strict=True
        ):
            assert own_keys.shape[2] == start
            if start:
                assert torch.allclose(keys[row, :, -start:], own_keys[0])
                assert torch.allclose(values[row, :, -start:], own_values[0])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_torchs(weight_decay: float) -> None:
    start, rate = torch.randn(3, 1, 8, dtype=torch.float64), torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    ours, adam = start.clone(), Adam(start, rate[:, None, None], weight_decay)
    theirs = [row.clone().requires_grad_() for row in start]
    optimisers = [
        torch.optim.Adam([row], lr=float(lr), weight_decay=weight_decay) for row, lr in zip(theirs, rate, strict=True)
    ]
    for _ in range(10):
        for row, optimiser in zip(theirs, optimisers, strict=True):
            optimiser.zero_grad()
            row.sin().sum().backward()
            optimiser.step()
        ours = adam.step(ours, ours.cos())
    assert torch.allclose(ours, torch.stack([row.detach() for row in theirs]), atol=1e-12)
    adam.keep(torch.tensor([True, False, True]))
    for row, optimiser in zip(theirs, optimisers, strict=True):
        optimiser.zero_grad()
        row.sin().sum().backward()
        optimiser.step()
    left = adam.step(ours[[0, 2]], ours[[0, 2]].cos())
    assert torch.allclose(left, torch.stack([theirs[0].detach(), theirs[2].detach()]), atol=1e-12)


def test_the_model_is_left_as_it_was() -> None:
    model = model_of()
    before, ids = model.fingerprint(), torch.tensor([model.encode("The river was high")])
    plain, flags = model.logits(ids), [p.requires_grad for p in model.bridge.original_model.parameters()]
    many(model)
    with pytest.raises(MechinterpError, match="the loss became"):
        many(model, hparams=ValueHparams(lr=1e200, clamp=None, weight_decay=1e200))
    assert torch.equal(model.logits(ids), plain)
    assert model.fingerprint() == before
    assert [p.requires_grad for p in model.bridge.original_model.parameters()] == flags


def test_bad_input_is_named() -> None:
    model = model_of()
    with pytest.raises(UsageError, match="no request was given"):
        values_of(model, [], 1)
    with pytest.raises(UsageError, match="layer 9 is out of range"):
        values_of(model, REQUESTS, 9)
    with pytest.raises(UsageError, match="first context must be '{}'"):
        values_of(model, REQUESTS, 1, contexts=("So, {}",))
    with pytest.raises(MechinterpError, match=r"after 1 steps for 'Marie Curie was born in' -> 'Paris'; lower lr"):
        values_of(
            model, REQUESTS[:1], 1, hparams=ValueHparams(lr=1e200, clamp=None, weight_decay=1e200), progress=False
        )
