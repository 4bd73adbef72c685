"""One solver for all: each editor's printed formula, the relations between them, and what cannot be solved."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.editors_oracle import alphaedit_solution, emmet_solution, memit_solution
from oracles.rome_oracle import constrained_least_squares
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mechinterp.editing.memory.null_space import NullSpace
from mechinterp.editing.memory.past_keys import PastKeys
from mechinterp.editing.memory.solve import Cost, insert_all
from mechinterp.editing.moments.moments import SecondMoment
from mechinterp.errors import MechinterpError, UsageError

D_MLP, D_MODEL = 12, 5
SIZES = st.integers(1, 6)
SEEDS = st.integers(0, 10_000)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moment_of(seed: int) -> SecondMoment:
    text = random(40, D_MLP, seed=seed + 1) * torch.linspace(0.05, 2, D_MLP)
    return SecondMoment(0, text.T @ text / len(text), len(text), "a model")


def problem(n: int, seed: int) -> tuple[Tensor, Tensor, SecondMoment]:
    return random(n, D_MLP, seed=seed), random(n, D_MODEL, seed=seed + 2), moment_of(seed)


def gap(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@given(n=SIZES, seed=SEEDS, weight=st.sampled_from([0.1, 1.0, 20.0]))
@settings(max_examples=25)
def test_least_squares_is_memit(n: int, seed: int, weight: float) -> None:
    keys, residuals, moment = problem(n, seed)
    found = insert_all(keys, residuals, Cost(moment, weight), slack=1.0).dense
    assert gap(found, memit_solution(keys, residuals, moment.matrix, weight)) < 1e-9


@given(n=SIZES, seed=SEEDS, slack=st.sampled_from([0.0, 0.1]))
@settings(max_examples=25)
def test_equality_is_emmet(n: int, seed: int, slack: float) -> None:
    keys, residuals, moment = problem(n, seed)
    found = insert_all(keys, residuals, Cost(moment, 3.0), slack=slack).dense
    assert gap(found, emmet_solution(keys, residuals, moment.matrix, 3.0, slack)) < 1e-8
    if slack == 0:
        assert gap(keys @ found, residuals) < 1e-9  # every value exactly


@given(seed=SEEDS)
@settings(max_examples=15)
def test_equality_with_one_pair_is_the_constrained_solution_of_rome(seed: int) -> None:
    text, values = random(40, D_MLP, seed=seed), random(40, D_MODEL, seed=seed + 1)
    weight = torch.linalg.lstsq(text, values).solution  # a trained memory: it minimises ‖KW − V‖
    key, value = random(D_MLP, seed=seed + 2), random(D_MODEL, seed=seed + 3)
    moment = SecondMoment(0, text.T @ text / 40, 40, "a model")
    change = insert_all(key[None], (value - key @ weight)[None], Cost(moment), slack=0.0).dense
    assert gap(weight + change, constrained_least_squares(text.T, values.T, key, value).T) < 1e-9


@given(n=SIZES, seed=SEEDS, past=st.integers(0, 20))
@settings(max_examples=25)
def test_the_null_space_is_alphaedit(n: int, seed: int, past: int) -> None:
    keys, residuals, moment = problem(n, seed)
    space = NullSpace.of(moment, 0.05)
    projection = space.project(torch.eye(D_MLP, dtype=torch.float64))
    before = random(past, D_MLP, seed=seed + 9)
    remembered = PastKeys().joined({0: before}).of(0) if past else None
    found = insert_all(keys, residuals, Cost(space, 0.5, remembered), slack=1.0).dense
    assert gap(found, alphaedit_solution(keys, residuals, projection, 0.5, before)) < 1e-8
    used = space.used
    assert float((used @ found).norm()) < 1e-9 * float(found.norm())  # what text uses is left alone, to the digit


@given(n=SIZES, seed=SEEDS)
@settings(max_examples=15)
def test_alphaedit_with_every_direction_free_is_ridge_regression(n: int, seed: int) -> None:
    keys, residuals, _ = problem(n, seed)
    found = insert_all(keys, residuals, Cost(NullSpace.everything(D_MLP), 2.0), slack=1.0).dense
    ridge = torch.linalg.solve(keys.T @ keys + 2 * torch.eye(D_MLP, dtype=torch.float64), keys.T @ residuals)
    assert gap(found, ridge) < 1e-10


@given(n=SIZES, seed=SEEDS, past=st.integers(1, 30))
@settings(max_examples=25)
def test_past_keys_count_as_text_does(n: int, seed: int, past: int) -> None:
    """Woodbury's way and the triangular factor against the sum written out: A = λC + K_pᵀK_p."""
    keys, residuals, moment = problem(n, seed)
    before = random(past, D_MLP, seed=seed + 9)
    half = past // 2
    remembered = PastKeys().joined({0: before[:half]}).joined({0: before[half:]})
    found = insert_all(keys, residuals, Cost(moment, 2.0, remembered.of(0)), slack=1.0).dense
    whole = 2 * moment.matrix + before.T @ before
    assert gap(found, memit_solution(keys, residuals, whole, 1.0)) < 1e-8
    assert len(remembered.keys[0]) == min(past, D_MLP)


def test_as_the_ridge_vanishes_least_squares_tends_to_equality() -> None:
    keys, residuals, moment = problem(3, 0)
    exact = insert_all(keys, residuals, Cost(moment), slack=0.0).dense
    near = [insert_all(keys, residuals, Cost(moment, weight), slack=1.0).dense for weight in (1.0, 1e-2, 1e-4)]
    gaps = [gap(found, exact) for found in near]
    assert gaps[0] > 30 * gaps[1] > 900 * gaps[2]


@given(seed=SEEDS)
@settings(max_examples=10)
def test_inserting_the_old_value_again_restores_the_weights(seed: int) -> None:
    keys, residuals, moment = problem(1, seed)
    weight = random(D_MLP, D_MODEL, seed=seed + 5)
    there = weight + insert_all(keys, residuals, Cost(moment), slack=0.0).dense
    back = there + insert_all(keys, keys @ weight - keys @ there, Cost(moment), slack=0.0).dense
    assert gap(back, weight) < 1e-12


def test_one_key_with_two_values_cannot_be_written_exactly() -> None:
    keys, residuals, moment = problem(2, 0)
    keys[1] = keys[0]
    with pytest.raises(MechinterpError, match="'a' and 'b' have the same key, so no change can give them different"):
        insert_all(keys, residuals, Cost(moment), slack=0.0, names=("'a'", "'b'"))
    both = insert_all(keys, residuals, Cost(moment, 1e-6), slack=1.0).dense
    assert gap(keys[0] @ both, residuals.mean(0)) < 1e-3  # least squares meets in the middle


def test_a_key_outside_the_null_space_is_named() -> None:
    space = NullSpace(torch.eye(D_MLP, dtype=torch.float64)[:3])
    keys = torch.eye(D_MLP, dtype=torch.float64)[1:2]
    with pytest.raises(MechinterpError, match="the key of 'a' has no component that a change may use"):
        insert_all(keys, random(1, D_MODEL), Cost(space), slack=0.0, names=("'a'",))


def test_what_is_no_cost_is_refused() -> None:
    keys, residuals, moment = problem(1, 0)
    with pytest.raises(UsageError, match="weight of what is to be preserved is -1.0"):
        Cost(moment, -1.0)
    with pytest.raises(UsageError, match="the slack is -0.1; give 0"):
        insert_all(keys, residuals, Cost(moment), slack=-0.1)


def test_null_spaces() -> None:
    moment = moment_of(0)
    values = torch.linalg.eigvalsh(moment.matrix)
    assert NullSpace.of(moment, float(values[4]) * 1.0001, "absolute").dimension == 5
    shares = values.cumsum(0) / values.sum()
    assert NullSpace.of(moment, float(shares[2]) * 1.0001).dimension == 3
    space = NullSpace.of(moment, 0.05)
    keys = random(4, D_MLP)
    assert torch.allclose(space.project(space.project(keys)), space.project(keys))
    for threshold, rule, message in (
        (1e-12, "absolute", "no direction of layer 0 is in the null space"),
        (1e3, "absolute", "every direction of layer 0 is in the null space"),
    ):
        with pytest.raises(MechinterpError, match=message):
            NullSpace.of(moment, threshold, rule)
    with pytest.raises(UsageError, match="'best' is no rule for a null space"):
        NullSpace.of(moment, 0.1, "best")
    with pytest.raises(UsageError, match="threshold of the null space is 2"):
        NullSpace.of(moment, 2.0)


def test_all_is_solved_where_the_second_moment_is() -> None:
    """Keys come from the GPU, C lies in the CPU's memory: nothing that follows may mix the two."""
    _, _, moment = problem(1, 0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        keys = torch.empty(3, D_MLP, device="cuda")
        for base in (moment, NullSpace.everything(D_MLP)):
            seen = Cost(base, past=torch.empty(2, D_MLP, dtype=torch.float64, device="cuda")).seen(keys)
            assert (seen.device.type, seen.dtype) == ("cpu", torch.float64)
