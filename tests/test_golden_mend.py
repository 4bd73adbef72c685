"""MEND's network and its training step against float64 outputs of the published code, and its exact oracles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mechinterp as mi
from mechinterp.editing.gradients.signals import Spread
from mechinterp.editing.training.capture import captured, tried
from mechinterp.editing.training.labelled import Labelled
from mechinterp.editing.training.mend_network import MendNetwork, mend_places
from mechinterp.models.model import Model

LAYERS = (3, 4)
NAMES = {"down": "c_proj", "up": "c_fc"}


@pytest.fixture(scope="module")
def golden(data_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(data_dir / "golden-trained" / "mend.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


@pytest.fixture(scope="module")
def toy(data_dir: Path) -> Model:
    return mi.load(data_dir / "toy", dtype=torch.float64)


def network_of(model: Model, golden: dict[str, torch.Tensor]) -> MendNetwork:
    network = MendNetwork.new(model, mend_places(model, LAYERS), 6, 1e-4, 0)
    own = {name.removeprefix("net/"): tensor for name, tensor in golden.items() if name.startswith("net/")}
    network.parameters = {name: t.clone().requires_grad_() for name, t in (own | {"alpha": golden["alpha"]}).items()}
    return network


def rows_of(golden: dict[str, torch.Tensor], name: str) -> Labelled:
    return Labelled(
        golden[f"{name}/input_ids"], golden[f"{name}/attention_mask"].bool(), golden[f"{name}/labels"] != -100
    )


def gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.detach() - wanted.detach()).norm() / wanted.detach().norm())


def check_stats(network: MendNetwork, golden: dict[str, torch.Tensor], prefix: str) -> None:
    for shape, spread in network.spreads.items():
        d_in = int(shape.split("x")[0])
        assert spread.count == int(golden[f"{prefix}/{shape}/k"])
        for side, part in (("u", slice(None, d_in)), ("v", slice(d_in, None))):
            assert gap(spread.mean[part], golden[f"{prefix}/{shape}/{side}_mean"]) < 1e-9
            assert gap(spread.std[part], golden[f"{prefix}/{shape}/{side}_std"]) < 1e-9
            assert gap(spread.squares[part], golden[f"{prefix}/{shape}/{side}_s"]) < 1e-9


def check_change(sides: object, golden: dict[str, torch.Tensor], name: str) -> None:
    assert isinstance(sides, dict)
    for (matrix, layer), (u, v) in sides.items():
        where = f"{name}/{layer}.{NAMES[matrix]}"
        delta = (u.T @ v).detach()
        probe = torch.from_numpy(np.random.default_rng(7).standard_normal((3, len(delta))))
        assert gap(probe @ delta, golden[f"{where}/probe_dW"]) < 1e-9
        assert float(delta.norm()) == pytest.approx(float(golden[f"{where}/norm_dW"]), rel=1e-9)
        if f"{where}/dW" in golden:
            assert gap(delta, golden[f"{where}/dW"]) < 1e-9


def test_every_array_of_the_published_code(toy: Model, golden: dict[str, torch.Tensor]) -> None:
    network = network_of(toy, golden)
    fit = captured(toy, rows_of(golden, "fit"), network.places)
    check_change(network.sides(fit, learning=True), golden, "fit")
    check_stats(network, golden, "stats")
    for name in ("one", "three"):
        rows = rows_of(golden, name)
        signals = captured(toy, rows, network.places)
        sides = network.sides(signals)
        check_change(sides, golden, name)
        for (matrix, layer), own in signals.items():
            where = f"{name}/{layer}.{NAMES[matrix]}"
            assert len(own.u) == int(golden[f"{where}/used"].sum())
            assert gap(own.u, golden[f"{where}/u"]) < 1e-9
            assert gap(own.delta, golden[f"{where}/delta"]) < 1e-9
            index = network.places.index((matrix, layer))
            assert gap(sides[matrix, layer][0] / golden["alpha"][index], golden[f"{where}/u_out"]) < 1e-9
            assert gap(sides[matrix, layer][1], golden[f"{where}/delta_out"]) < 1e-9
        before = rows.logits(toy, grad=False)
        with torch.no_grad(), tried(toy, sides):
            after = rows.logits(toy, grad=False)
        if name == "one":
            last = int(rows.scored[0].nonzero().max()) - 1
            assert gap(before[:, last], golden["one/logits_before_last"]) < 1e-9
            assert gap(after[:, last], golden["one/logits_after_last"]) < 1e-9
        else:
            assert float(rows.nll(after)) == pytest.approx(float(golden["three/nll_after"]), rel=1e-9)
    losses = network.losses(
        toy, rows_of(golden, "step"), rows_of(golden, "step/outer"), rows_of(golden, "step/loc"), weights=(0.1, 1.0),
        learning=True,
    )  # fmt: skip
    losses.total.backward()
    assert losses.edit == pytest.approx(float(golden["step/l_edit"]), rel=1e-9)
    assert losses.local == pytest.approx(float(golden["step/l_loc"]), abs=1e-12)
    assert float(losses.total.detach()) == pytest.approx(float(golden["step/l_total"]), rel=1e-9)
    for name, parameter in network.parameters.items():
        assert parameter.grad is not None
        assert gap(parameter.grad, golden[f"step/grad/{name}"]) < 1e-9, name
    check_stats(network, golden, "stats_after_step")


def test_the_identity_with_no_norm_gives_the_gradient(toy: Model, golden: dict[str, torch.Tensor]) -> None:
    """Oracles 1, 3, 4, 6 and 8; and 5: what follows the answer, and padding, change nothing."""
    rows = rows_of(golden, "three")
    network = MendNetwork.new(toy, mend_places(toy, LAYERS), 6, -1e-3, 0, normalise=False)
    sides = network.sides(captured(toy, rows, network.places))
    for place, (u, v) in sides.items():
        weight = toy.layout.mlp_matrix(*place)
        delta = torch.zeros_like(weight, requires_grad=True)
        with tried(toy, {place: (delta.T, torch.eye(weight.shape[1], dtype=weight.dtype))}):
            [gradient] = torch.autograd.grad(rows.nll(rows.logits(toy, grad=True)), delta)
        assert gap(u.T @ v, -1e-3 * gradient) < 1e-9
    wide = torch.nn.functional.pad(rows.ids, (0, 4), value=7)
    more = Labelled(wide, torch.nn.functional.pad(rows.real, (0, 4)), torch.nn.functional.pad(rows.scored, (0, 4)))
    for place, (u, v) in network.sides(captured(toy, more, network.places)).items():
        assert gap(u.T @ v, sides[place][0].T @ sides[place][1]) < 1e-9
    with torch.no_grad():
        network.parameters["alpha"].zero_()
        base = rows.logits(toy, grad=False)
        with tried(toy, network.sides(captured(toy, rows, network.places))):
            assert torch.equal(rows.logits(toy, grad=False), base)
        trained = network_of(toy, golden)
        h = torch.randn(5, 640, dtype=torch.float64)
        assert bool((trained._layer("512x128/layer0", h, 1) - h >= -1e-12).all())


def test_a_network_is_its_state(toy: Model, golden: dict[str, torch.Tensor]) -> None:
    network = network_of(toy, golden)
    signals = captured(toy, rows_of(golden, "fit"), network.places)
    network.sides(signals, learning=True)
    again = MendNetwork.of_state(network.places, network.state)
    assert isinstance(again.spreads["512x128"], Spread)
    for place, (u, v) in again.sides(signals).items():
        assert torch.equal(u, network.sides(signals)[place][0])
        assert torch.equal(v, network.sides(signals)[place][1])
