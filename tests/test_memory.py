"""The linear memory: insertion is the constrained least-squares solution, and it leaves alone what it should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.rome_oracle import constrained_least_squares
from support.tokenizers import SENTENCES
from support.zoo import sentence_model

from mechinterp.editing import LinearMemory, SecondMoment
from mechinterp.errors import MechinterpError, UsageError

UNITS, WIDTH, SAMPLES = 8, 5, 40


def memory_and_data(seed: int, *, bias: bool = True) -> tuple[LinearMemory, torch.Tensor]:
    """A memory that is the least-squares fit of its own keys, and those keys (columns)."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(UNITS, UNITS, generator=generator, dtype=torch.float64)
    keys = mix @ torch.randn(UNITS, SAMPLES, generator=generator, dtype=torch.float64)
    values = torch.randn(WIDTH, SAMPLES, generator=generator, dtype=torch.float64)
    fitted = torch.linalg.solve(keys @ keys.T, keys @ values.T)
    moments = SecondMoment(0, keys @ keys.T / SAMPLES, SAMPLES, "")
    offset = torch.randn(WIDTH, generator=generator, dtype=torch.float64) if bias else None
    return LinearMemory(fitted, offset, moments), keys


@given(seed=st.integers(0, 10_000), bias=st.booleans())
def test_an_inserted_pair_is_recalled(seed: int, bias: bool) -> None:
    memory, _ = memory_and_data(seed, bias=bias)
    key, value = torch.randn(UNITS, dtype=torch.float64), torch.randn(WIDTH, dtype=torch.float64)
    insertion = memory.insert(key, value)
    edited = memory.inserted(insertion)
    assert torch.allclose(edited.recall(key), value, atol=1e-8)
    assert torch.allclose(insertion.residual, value - memory.recall(key))
    assert float(insertion.u.norm()) == pytest.approx(1)
    assert torch.linalg.matrix_rank(insertion.delta) == 1


@given(seed=st.integers(0, 10_000))
def test_keys_orthogonal_under_the_inverse_moment_are_unchanged(seed: int) -> None:
    memory, _ = memory_and_data(seed)
    key, value = torch.randn(UNITS, dtype=torch.float64), torch.randn(WIDTH, dtype=torch.float64)
    other = torch.randn(UNITS, dtype=torch.float64)
    solved = memory.moments.solve(key)
    other = other - key * (other @ solved) / (key @ solved)
    edited = memory.inserted(memory.insert(key, value))
    assert torch.allclose(edited.recall(other), memory.recall(other), atol=1e-8)


@given(seed=st.integers(0, 10_000))
def test_it_is_the_constrained_least_squares_solution(seed: int) -> None:
    """Against the bordered normal equations over every stored pair, explicitly."""
    memory, keys = memory_and_data(seed, bias=False)
    values = memory.weight.T @ keys + torch.linalg.qr(keys.T).Q.new_zeros(WIDTH, SAMPLES)
    key, value = torch.randn(UNITS, dtype=torch.float64), torch.randn(WIDTH, dtype=torch.float64)
    wanted = constrained_least_squares(keys, values, key, value)
    found = memory.inserted(memory.insert(key, value)).weight.T
    assert torch.allclose(found, wanted, atol=1e-7 * float(wanted.abs().max()))


def test_no_other_constrained_change_costs_less() -> None:
    memory, keys = memory_and_data(3, bias=False)
    values = memory.weight.T @ keys
    key, value = torch.randn(UNITS, dtype=torch.float64), torch.randn(WIDTH, dtype=torch.float64)
    best = memory.inserted(memory.insert(key, value)).weight.T
    cost = float((best @ keys - values).square().sum())
    for _ in range(20):
        other = torch.randn(WIDTH, UNITS, dtype=torch.float64)
        other = best + 0.1 * (other - torch.outer(other @ key, key) / (key @ key))  # keeps the constraint
        assert torch.allclose(other @ key, value)
        assert float((other @ keys - values).square().sum()) > cost


def test_the_published_inconsistency_is_exact_at_the_bare_key_only() -> None:
    memory, _ = memory_and_data(5)
    bare, mean = torch.randn(2, UNITS, dtype=torch.float64)
    value = torch.randn(WIDTH, dtype=torch.float64)
    edited = memory.inserted(memory.insert(bare, value, along=mean))
    assert torch.allclose(edited.recall(bare), value)
    assert not torch.allclose(edited.recall(mean), value, atol=1e-3)


def test_a_key_without_a_share_of_the_direction_is_refused() -> None:
    memory, _ = memory_and_data(6)
    key = torch.randn(UNITS, dtype=torch.float64)
    solved = memory.moments.solve(key)
    other = torch.randn(UNITS, dtype=torch.float64)
    other = other - solved * (other @ solved) / (solved @ solved)
    with pytest.raises(MechinterpError, match="no component along C⁻¹k"):
        memory.insert(other, torch.zeros(WIDTH), along=key)
    with pytest.raises(MechinterpError, match="no component along C⁻¹k"):
        memory.insert(torch.zeros(UNITS), torch.zeros(WIDTH))


def test_recalling_many_keys_is_recalling_each() -> None:
    memory, keys = memory_and_data(7)
    together = memory.recall(keys.T)
    assert torch.allclose(together, torch.stack([memory.recall(key) for key in keys.T]), atol=1e-12)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "neox", "opt"])
def test_a_model_recalls_what_its_layer_gives(kind: str) -> None:
    model = sentence_model(kind)
    moments = SecondMoment.collect(model, SENTENCES, 2, progress=False)
    memory = LinearMemory.of(model, -2, moments)
    names = [model.layout.key_hook(2), model.layout.value_hook(2)]
    ids = torch.tensor([model.encode(SENTENCES[0])])
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(ids, names_filter=names, use_cache=False)
    gap = memory.recall(cache[names[0]]) - cache[names[1]]
    assert gap.abs().max() < 1e-5 * cache[names[1]].abs().max()


def test_moments_of_another_layer_or_size_are_refused() -> None:
    model = sentence_model("gpt2")
    moments = SecondMoment.identity(model, 1)
    with pytest.raises(UsageError, match="is of layer 1, but layer 2 is to be edited"):
        LinearMemory.of(model, 2, moments)
    with pytest.raises(UsageError, match="has 3 units, but its second moment 96"):
        LinearMemory(torch.zeros(3, 2), None, moments)
