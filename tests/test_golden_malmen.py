"""MALMEN's network, solve and meta-gradient against float64 outputs of the published code, and its exact oracles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mechinterp as mi
from mechinterp.editing.training.capture import Captured, captured
from mechinterp.editing.training.labelled import Labelled
from mechinterp.editing.training.malmen_network import MalmenNetwork
from mechinterp.models.model import Model

PLACES = (("down", 3), ("down", 4))
SHAPE = "512x128"
EPS = float(np.finfo(np.float64).eps)
"""The published code ran in float64 for these arrays."""

Golden = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def golden(data_dir: Path) -> Golden:
    with np.load(data_dir / "golden-trained" / "malmen.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


@pytest.fixture(scope="module")
def toy(data_dir: Path) -> Model:
    return mi.load(data_dir / "toy", dtype=torch.float64)


def network_of(model: Model, golden: Golden) -> MalmenNetwork:
    network = MalmenNetwork.new(model, PLACES, 6, 2, 1e-6, 0)
    own = {name.removeprefix("net/"): tensor for name, tensor in golden.items() if name.startswith("net/")}
    assert set(own) == set(network.parameters)
    network.parameters = {name: tensor.clone().requires_grad_() for name, tensor in own.items()}
    network.eps = EPS
    return network


def rows_of(golden: Golden, turn: int, kind: str) -> list[Labelled]:
    """The published labels stand at the position that predicts."""
    found = []
    for i in (0, 1):
        name = f"turn{turn}/{kind}_tuples/{i}"
        predicting = golden[f"{name}/labels"] != -100
        scored = torch.nn.functional.pad(predicting[:, :-1], (1, 0))
        ids, real = golden[f"{name}/input_ids"], golden[f"{name}/attention_mask"].bool()
        spill = predicting[:, -1]
        if bool(spill.any()):  # the last label has no input position: feed it, behind everything that is read
            last = torch.where(spill, golden[f"{name}/labels"][:, -1], 0)
            ids = torch.cat([ids, last[:, None]], 1)
            real = torch.nn.functional.pad(real, (0, 1))
            scored = torch.cat([scored, spill[:, None]], 1)
        labels = torch.nn.functional.pad(golden[f"{name}/labels"], (0, ids.shape[1] - predicting.shape[1]), value=-100)
        ids = torch.where(scored, torch.nn.functional.pad(labels[:, :-1], (1, 0)), ids)
        found.append(Labelled(ids, real, scored))
    return found


def gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


def probe(matrix: torch.Tensor, seed: int = 7) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((3, len(matrix)))) @ matrix.detach()


def test_both_turns_of_the_published_code(toy: Model, golden: Golden) -> None:
    network = network_of(toy, golden)
    adam = torch.optim.Adam(list(network.parameters.values()), lr=1e-5)
    for turn in (0, 1):
        edits = rows_of(golden, turn, "edit")
        batches = [captured(toy, rows, PLACES, answers=True) for rows in edits]
        adam.zero_grad()
        losses = network.losses(
            toy, edits, rows_of(golden, turn, "equiv"), rows_of(golden, turn, "unrel"), weights=(1.0, 1.0),
            learning=True,
        )  # fmt: skip
        losses.total.backward()
        sides = network.sides(batches)
        spread = network.spreads[SHAPE]
        assert spread.count == int(golden[f"turn{turn}/normaliser/{SHAPE}/n"])
        assert gap(spread.mean, golden[f"turn{turn}/normaliser/{SHAPE}/mean"]) < 1e-9
        assert gap(spread.std_with(EPS), golden[f"turn{turn}/normaliser/{SHAPE}/std"]) < 1e-9
        assert losses.edit / 2 == pytest.approx(float(golden[f"turn{turn}/gen_loss_logged_mean"]), rel=1e-9)
        assert losses.local / 2 == pytest.approx(float(golden[f"turn{turn}/loc_loss_logged_mean"]), abs=1e-12)
        for index, (place, (u, v)) in enumerate(sides.items()):
            name = f"turn{turn}/{place[1]}.c_proj"
            delta = u.T @ v
            assert gap(probe(delta), golden[f"{name}/probe_dW"]) < 1e-9
            assert float(delta.detach().norm()) == pytest.approx(float(golden[f"{name}/norm_dW"]), rel=1e-9)
            if f"{name}/dW" in golden:
                assert gap(delta, golden[f"{name}/dW"]) < 1e-9
            if turn:
                continue
            for i, batch in enumerate(batches):
                where = f"turn0/capture/{place[1]}.c_proj/{i}"
                assert gap(batch[place].u, golden[f"{where}/keys"]) < 1e-9
                assert gap(batch[place].delta, golden[f"{where}/gradients"]) < 1e-9
            signals = {
                one: Captured(torch.cat([b[one].u for b in batches]), torch.cat([b[one].delta for b in batches]))
                for one in PLACES
            }
            out = network.out(signals)[place]
            assert gap(out.u, golden[f"turn0/network/{SHAPE}/{index}/key_out"]) < 1e-9
            assert gap(out.delta, golden[f"turn0/network/{SHAPE}/{index}/gradient_out"]) < 1e-9
        for name, parameter in network.parameters.items():
            wanted = golden.get(f"turn{turn}/hyper_grad_before_clip/{name}")
            assert parameter.grad is not None
            assert wanted is None or gap(parameter.grad, wanted) < 1e-9, name
        norm = torch.nn.utils.clip_grad_norm_(list(network.parameters.values()), 1.0)
        assert float(norm) == pytest.approx(float(golden[f"turn{turn}/hyper_grad_norm"]), rel=1e-9)
        adam.step()
    for name, parameter in network.parameters.items():
        wanted = golden.get(f"net_after/{name}")
        assert wanted is None or gap(parameter, wanted) < 1e-9, name


def identity(width: tuple[int, int], rows: int, lamda: float) -> tuple[MalmenNetwork, dict[tuple[str, int], Captured]]:
    """A network without blocks, and some vectors."""
    shape, random = f"{width[0]}x{width[1]}", torch.Generator().manual_seed(0)
    own = Captured(*(torch.randn(rows, one, generator=random, dtype=torch.float64) for one in width))
    parameters = {
        f"{shape}/lr": torch.ones(1, 1, dtype=torch.float64),
        f"{shape}/lamda": torch.full((1, 1), lamda, dtype=torch.float64, requires_grad=True),
    }
    network = MalmenNetwork((("down", 0),), parameters, {})
    network.seen([{("down", 0): own}])
    return network, {("down", 0): own}


@pytest.mark.parametrize(("rows", "lamda"), [(2, 0.3), (7, -1.0), (20, 2.0)])
def test_the_solve_is_the_normal_equation_and_its_gradients_are_closed(rows: int, lamda: float) -> None:
    """Oracles 3 to 6: the push-through form; and the closed gradients against automatic differentiation."""
    network, signals = identity((9, 4), rows, lamda)
    [(keys, solved)] = network.sides([signals]).values()
    out = network.out(signals)["down", 0]
    values = -(keys * out.u).sum(1, keepdim=True) * out.delta
    ridge = torch.tensor(lamda, dtype=torch.float64).exp()
    matrix = keys.T @ keys + ridge * torch.eye(9, dtype=torch.float64)
    delta = keys.T @ solved
    assert gap(delta, torch.linalg.solve(matrix, keys.T @ values)) < 1e-10
    gradient = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (delta * gradient).sum().backward()
    m = torch.linalg.solve(matrix, gradient)
    own = network.parameters["9x4/lamda"].grad
    assert own is not None
    assert float(own) == pytest.approx(float(-ridge * (m * delta.detach()).sum()), rel=1e-9)
    small, asked = identity((9, 4), 5, -30.0)
    [(k, x)] = small.sides([asked]).values()
    wanted = -(k * small.out(asked)["down", 0].u).sum(1, keepdim=True) * small.out(asked)["down", 0].delta
    assert gap(k @ (k.T @ x), wanted) < 1e-6  # independent keys and no ridge: each says its value
