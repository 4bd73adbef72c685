"""UltraEdit: against its normal equation as printed, and what it remembers from one batch to the next."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.gradient_oracle import Asked, ultra_delta, ultra_signals
from oracles.rome_oracle import Weights
from support.zoo import KINDS, sentence_model

import mechinterp as mi
from mechinterp.editing import EDITORS, BatchReport, Edit, EditRequest, EditSequence, edit_each
from mechinterp.editing.editors.ultraedit import UltraHparams, _solve_layers, ultraedit
from mechinterp.editing.gradients.signals import LifelongStatistics, Signals, Spread, mean_batches, signals_of, together
from mechinterp.errors import MechinterpError, UsageError
from mechinterp.facts.prompts import Prompt
from mechinterp.models.layout import clean_state_dict
from mechinterp.models.model import Model

REQUESTS = [
    EditRequest(Prompt("{} was born in", "Marie Curie"), "Paris"),
    EditRequest(Prompt("The capital of {} is", "Poland"), "the river"),
    EditRequest(Prompt("In the evening, people of {} spoke about the", "Seattle"), "loud and soft music"),
    EditRequest(Prompt("{} wrote about", "Ada Lovelace"), "rain"),
]
PUBLISHED = UltraHparams(lr=1e-3, lr_rule="absolute", warm_up=2)


@cache
def model_of(kind: str = "gpt2") -> Model:
    """Booted once: nothing here changes weights."""
    return sentence_model(kind, dtype=torch.float64)


@cache
def oracle_signals(layer: int) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    state = {name: tensor.detach() for name, tensor in clean_state_dict(model_of().bridge.original_model).items()}
    return tuple(
        ultra_signals(
            Weights(state, heads=4, layers=4),
            Asked(
                model_of().encode(each.prompt.text), list(model_of().answer_ids(each.prompt.text, each.target))
            ),
            layer,
        )
        for each in REQUESTS
    )  # fmt: skip


def gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_keys_and_gradients_are_the_loops(layer: int) -> None:
    for found, (keys, gradients) in zip(signals_of(model_of(), REQUESTS, [layer]), oracle_signals(layer), strict=True):
        assert gap(found[layer].keys, keys) < 1e-9
        assert gap(found[layer].gradients, gradients) < 1e-9


def test_it_is_the_printed_solve() -> None:
    edit = ultraedit(model_of(), REQUESTS, [1, 2], hparams=PUBLISHED)
    for layer in (1, 2):
        keys, gradients = (torch.cat(sides) for sides in zip(*oracle_signals(layer), strict=True))
        wanted = ultra_delta(keys, gradients, torch.cat([keys, gradients], 1), lr=1e-3)
        assert gap(edit.delta(layer), wanted) < 1e-8
        assert edit.factors(layer).rank == len(keys)


def test_earlier_batches_take_part_in_the_statistics() -> None:
    """The second batch of a sequence is normalised by both, and solved on the model that the first has left."""
    model = model_of()
    sequence = EditSequence(model, EDITORS["ultraedit"], [1], hparams=PUBLISHED)
    first, second = sequence.add(REQUESTS[:2]), sequence.add(REQUESTS[2:])
    before = together(signals_of(model, REQUESTS[:2], [1]))[1].joint
    with first.on(model):
        own = together(signals_of(model, REQUESTS[2:], [1]))[1]
    wanted = ultra_delta(own.keys, own.gradients, torch.cat([before, own.joint]), lr=1e-3)
    assert gap(second.delta(1), wanted) < 1e-8
    assert sequence.past.spreads[1].count == len(before) + len(own.keys)
    assert second.provenance.on_top_of == (first.parts[0].digest,)
    with first.on(model):
        alone = ultraedit(model, REQUESTS[2:], [1], hparams=PUBLISHED)
    assert gap(alone.delta(1), wanted) > 1e-3


def test_what_is_remembered_is_a_value() -> None:
    model = model_of()
    empty = LifelongStatistics()
    edit = ultraedit(model, REQUESTS, [1], hparams=PUBLISHED, past=empty)
    after = ultraedit.remember(ultraedit.job(model, REQUESTS, [1], hparams=PUBLISHED, past=empty), edit)
    assert not empty.spreads
    assert set(after.spreads) == {1}
    assert ultraedit(model, REQUESTS, [1], hparams=PUBLISHED, past=empty) == edit


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 1000), st.floats(-1e3, 1e3))
def test_running_statistics_are_those_of_everything(sizes: list[int], seed: int, offset: float) -> None:
    vectors = torch.randn(sum(sizes) + 1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vectors = vectors + offset
    found = Spread(0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    for part in vectors.split([*sizes, 1]):
        found = found.joined(part)
    assert found.count == len(vectors)
    assert torch.allclose(found.mean, vectors.mean(0))
    assert torch.allclose(found.std, vectors.std(0), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_many_is_what_it_is_alone(kind: str) -> None:
    model = model_of(kind)
    for hparams in (UltraHparams(), PUBLISHED):
        some = REQUESTS if hparams.warm_up > 2 else REQUESTS[1:3]  # one token alone has no spread
        for found, request in zip(
            edit_each(model, ultraedit, some, [1, 2], hparams=hparams, progress=False), some, strict=True
        ):
            alone = ultraedit(model, [request], [1, 2], hparams=hparams)
            assert all(gap(found.delta(layer), alone.delta(layer)) < 1e-4 for layer in (1, 2))
            assert found.provenance.requests == (request,)


def test_before_there_are_statistics_vectors_are_scaled() -> None:
    """The one vector keeps its direction: against the gradient, which lowers the loss for a small enough step."""
    model = model_of()
    edit = ultraedit(model, REQUESTS[:1], [2], hparams=UltraHparams(lr=0.01))
    [(keys, gradients)] = oracle_signals(2)[:1]
    values = keys @ edit.delta(2)
    assert torch.nn.functional.cosine_similarity(values, gradients).item() == pytest.approx(-1)
    assert isinstance(edit.report, BatchReport)
    assert edit.report.outcomes[0].target_after > edit.report.outcomes[0].target_before


def test_relative_rates_do_not_depend_on_the_width() -> None:
    """Of one token: v = η · output · ĝ, then shrunk by the ridge."""
    model, hparams = model_of(), UltraHparams(lr=0.5, ridge=1e-9)
    edit = ultraedit(model, REQUESTS[:1], [1], hparams=hparams)
    [(keys, _)] = oracle_signals(1)[:1]
    output = keys @ model.layout.down_projection(1).detach()
    assert (keys @ edit.delta(1)).norm() == pytest.approx(0.5 * float(output.norm()), rel=1e-6)


def test_more_tokens_than_columns_are_kept_as_a_matrix() -> None:
    signals = Signals(torch.randn(60, 96, dtype=torch.float64), torch.randn(60, 48, dtype=torch.float64))
    seen = LifelongStatistics().joined({1: signals})
    found = _solve_layers(model_of(), {1: signals}, seen, PUBLISHED)[1]
    assert found.rank == 48
    assert gap(found.dense, ultra_delta(signals.keys, signals.gradients, signals.joint, lr=1e-3)) < 1e-8


def test_the_default_takes_on_atlas() -> None:
    model, facts = mi.load("atlas"), mi.atlas.known_facts()[:400:20]
    before = model.fingerprint()
    edits = edit_each(model, EDITORS["ultraedit"], facts, progress=False)
    made = [edit for edit in edits if isinstance(edit, Edit)]
    assert len(made) == 20
    assert sum(edit.report.success for edit in made) >= 15
    batch = EDITORS["ultraedit"](model, facts).report
    assert isinstance(batch, BatchReport)
    assert sum(outcome.success for outcome in batch.outcomes) >= 12
    assert not any(edit.report.disabling for edit in made)
    wild = UltraHparams(lr=50.0)
    with pytest.raises(MechinterpError, match="by ultraedit would disable the model: after '{} is a'"):
        ultraedit(model, facts, hparams=wild)
    assert ultraedit(model, facts, hparams=wild, allow_disabling=True).report.disabling
    assert all(
        edit.report.disabling
        for edit in edit_each(model, ultraedit, facts[:2], hparams=wild, allow_disabling=True, progress=False)
    )
    assert model.fingerprint() == before


def test_bad_input_is_named() -> None:
    model = model_of()
    with pytest.raises(UsageError, match="no published layers of ultraedit are known for small-gpt2"):
        ultraedit(model, REQUESTS)
    with pytest.raises(UsageError, match="contradict each other"):
        ultraedit(model, [REQUESTS[0], EditRequest(REQUESTS[0].prompt, "rain")], [1])
    with pytest.raises(UsageError, match="ridge is 0; it must be above 0"):
        UltraHparams(ridge=0)
    silent = Signals(torch.ones(1, 96, dtype=torch.float64), torch.zeros(1, 48, dtype=torch.float64))
    with pytest.raises(MechinterpError, match="the gradient of a target token is zero or not finite"):
        _solve_layers(model, {1: silent}, LifelongStatistics().joined({1: silent}), PUBLISHED)


def test_the_published_statistics_refuse_what_makes_them_nan() -> None:
    one = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(MechinterpError, match="the published statistics become NaN by a batch of one token"):
        Spread.empty(one).joined(one, published=True)


def test_inner_batches_are_of_a_mean_and_longest_first() -> None:
    """Gradients of an inner batch are divided by its tokens; all layers share a pool, one batch of one layer a time."""
    each = signals_of(model_of(), REQUESTS, [1, 2])
    [first, second] = mean_batches(each, [3, 9, 5, 9], 2)
    assert gap(first[1].keys, torch.cat([each[1][1].keys, each[3][1].keys])) == 0
    assert gap(second[2].gradients, together([each[2], each[0]])[2].gradients / len(second[2].keys)) < 1e-12
    seen = LifelongStatistics().joined(first, published=True).of(2, published=True)
    rows = torch.cat([first[1].joint, first[2].joint])
    n = len(first[1].joint)
    assert torch.allclose(seen.mean, rows.mean(0))
    squares = sum(n * first[layer].joint.var(0) + n * (first[layer].joint.mean(0) - seen.mean) ** 2 for layer in (1, 2))
    assert torch.allclose(seen.squares, squares)
