"""Whether it is enough text: cosines of C⁻¹k between one look and the next, and what they say about the truth."""

from __future__ import annotations

import math

import pytest
import torch
from support.running_text import running_text
from support.zoo import sentence_model
from torch import Tensor

from mechinterp.editing import Convergence, Look, collect_moments
from mechinterp.editing.moments.text_keys import panel_keys
from mechinterp.errors import UsageError
from mechinterp.models.model import Model

UNITS = 12
TRUTH = torch.diag(torch.logspace(0, 2, UNITS, dtype=torch.float64))


@pytest.fixture(scope="module")
def model() -> Model:
    return sentence_model("gpt2")


def products(tokens: int, seed: int = 0) -> Tensor:
    """Σ k kᵀ of the first of an endless row of independent keys whose law has the second moment TRUTH."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(tokens, UNITS, generator=generator, dtype=torch.float64) @ TRUTH.sqrt()
    return keys.T @ keys


def panel(keys: int = 50) -> Tensor:
    return torch.randn(keys, UNITS, dtype=torch.float64) @ TRUTH.sqrt()


def cosines(one: Tensor, other: Tensor, keys: Tensor) -> list[float]:
    """The obvious way: invert both, key by key."""
    return [
        float(
            torch.nn.functional.cosine_similarity(torch.linalg.pinv(one) @ key, torch.linalg.pinv(other) @ key, dim=0)
        )
        for key in keys
    ]


def test_a_look_is_the_cosine_with_the_look_before() -> None:
    told: list[Look] = []
    keys = panel()
    watch = Convergence(keys={3: keys}, told=told.append)
    for tokens in (50, 100, 200):
        watch.look(tokens, {3: products(tokens)})
    assert told == watch.looks
    assert math.isnan(told[0].cosine)
    for look, before in ((told[1], 50), (told[2], 100)):
        wanted = torch.tensor(cosines(products(look.tokens), products(before), keys), dtype=torch.float64)
        assert look.cosine == pytest.approx(float(wanted.quantile(0.5)))
        assert look.low == pytest.approx(float(wanted.quantile(0.1)))
        assert look.units == UNITS
        assert look.condition == pytest.approx(float(torch.linalg.cond(products(look.tokens))))
    final = watch.curve(3)
    assert list(final) == [50, 100, 200]
    assert torch.allclose(final[50], torch.tensor(cosines(products(50), products(200), keys), dtype=torch.float64))
    assert torch.allclose(final[200], torch.ones(50, dtype=torch.float64))


def test_doubling_tells_how_far_the_truth_is() -> None:
    """Of independent keys: what the last doubling changed is what is still missing."""
    missing, changed = [], []
    for seed in range(40):
        keys = panel()
        watch = Convergence(keys={0: keys})
        watch.look(150, {0: products(150, seed)})
        watch.look(300, {0: products(300, seed)})
        changed.append(1 - watch.looks[-1].cosine)
        missing.append(1 - sorted(cosines(products(300, seed), TRUTH, keys))[25])
    assert sum(changed) / sum(missing) == pytest.approx(1, abs=0.15)


def test_units_that_never_fire_are_left_out() -> None:
    keys = panel()
    dead, padded = torch.zeros(UNITS + 2, UNITS + 2, dtype=torch.float64), torch.zeros(50, UNITS + 2)
    padded[:, 2:] = keys
    watch, whole = Convergence(keys={0: padded}), Convergence(keys={0: keys})
    for tokens in (50, 100):
        dead[2:, 2:] = products(tokens)
        watch.look(tokens, {0: dead})
        whole.look(tokens, {0: products(tokens)})
    assert watch.looks[-1].units == UNITS
    assert watch.looks[-1].cosine == pytest.approx(whole.looks[-1].cosine, abs=1e-6)
    assert watch.looks[-1].condition == pytest.approx(whole.looks[-1].condition)


def test_a_singular_moment_is_never_settled() -> None:
    watch = Convergence(until=0.01, keys={0: panel()})
    for tokens in (3, 6, 12):
        watch.look(tokens, {0: products(tokens // 2)})
        assert not watch.settled
        assert "no direction yet" in str(watch.looks[-1])
    watch.look(24, {0: products(24)})
    assert "first look" in str(watch.looks[-1])
    watch.look(48, {0: products(48)})
    assert watch.settled
    assert str(watch.looks[-1]).startswith("layer 0, 48 tokens: cosine with half as many tokens 0.")


def test_it_settles_when_all_layers_have() -> None:
    watch = Convergence(until=0.9, keys={0: panel(), 1: panel()})
    assert not watch.settled
    for tokens in (100, 200):
        watch.look(tokens, {0: products(tokens), 1: products(tokens // 5)})
        assert not watch.settled
    watch.look(4000, {0: products(4000), 1: products(4000)})
    watch.look(8000, {0: products(8000), 1: products(8000)})
    assert watch.settled


def test_it_ends_a_collection(model: Model) -> None:
    texts = running_text(600)
    watch = Convergence(until=0.8)
    found = collect_moments(model, texts, [1], watch=watch, batch_tokens=64, progress=False)[1]
    assert found.complete
    assert watch.settled
    assert found.tokens == watch.looks[-1].tokens < sum(len(model.encode(text)) for text in texts)
    assert all(look.low < 0.8 or math.isnan(look.low) for look in watch.looks[:-1])
    for before, after in zip(watch.looks, watch.looks[1:], strict=False):
        assert 2 * before.tokens <= after.tokens < 2 * before.tokens + 128
    assert watch.looks[0].tokens >= model.d_mlp


def test_the_table_ends_at_the_final_moment(model: Model) -> None:
    watch = Convergence()
    found = collect_moments(model, running_text(50), [1, 2], watch=watch, batch_tokens=64, progress=False)
    table = watch.table()
    assert sorted(set(table["layer"])) == [1, 2]
    last = table[table["layer"] == 2].iloc[-1]
    assert last["tokens"] == found[2].tokens
    assert last["final_cosine"] == pytest.approx(1)
    first = table[table["layer"] == 2].iloc[0]
    assert first["tokens"] == watch.looks[0].tokens
    assert math.isnan(first["cosine"])


def test_the_panel_is_made_of_last_keys(model: Model) -> None:
    texts = running_text(70)
    found = panel_keys(model, ["", *texts], [1, 2], keys=5)
    for row, text in enumerate(texts[::14]):
        ids = torch.tensor([model.encode(text)])
        _, cache = model.bridge.run_with_cache(ids, names_filter=[model.layout.key_hook(2)])
        assert torch.allclose(found[2][row], cache[model.layout.key_hook(2)][0, -1].double(), atol=1e-5)
    assert len(panel_keys(model, texts[:3], [1])[1]) == 3
    assert panel_keys(model, [""], [1]) == {}


@pytest.mark.parametrize("until", [0.0, 1.0, 99.0])
def test_a_threshold_is_a_cosine(until: float) -> None:
    with pytest.raises(UsageError, match=f"until is {until:g}; give the cosine that is wanted, between 0 and 1"):
        Convergence(until=until)
