"""The test run checks shapes: without these tests, a hook that silently stopped working would look fine."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
import torch
import typecheck

import mechinterp

SAMPLE = """
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from decimal import Decimal


def outer(a: Float[Tensor, "n"], b: Float[Tensor, "m"], scale: float = 1.0) -> Float[Tensor, "n m"]:
    return scale * a[:, None] * b[None]


def added(a: Float[Tensor, "n"], b: Float[Tensor, "n"] | None = None) -> Float[Tensor, "n"]:
    return a if b is None else a + b


def wrong_result(a: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    return a.T


def stacked(*rows: Float[Tensor, "n"], **named: Float[Tensor, "n"]) -> int:
    return len(rows) + len(named)


def listed(rows: list[Float[Tensor, "n"]]) -> int:
    return len(rows)


def unresolvable(money: "Decimal", a: Float[Tensor, "n"]) -> "Decimal":
    return money


def counted(a: Float[Tensor, "n"]) -> Iterator[int]:
    yield len(a)


@contextmanager
def entered(a: Float[Tensor, "n"]) -> Iterator[Float[Tensor, "n"]]:
    yield a


@dataclass(frozen=True, slots=True)
class Square:
    matrix: Float[Tensor, "n n"]
    name: str = "square"

    def times(self, vector: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return self.matrix @ vector

    def itself(self) -> Self:
        return self

    def not_itself(self) -> Self:
        return 1

    @classmethod
    def eye(cls, n: int) -> Self:
        from torch import eye
        return cls(eye(n))

    @staticmethod
    def trace(matrix: Float[Tensor, "n n"]) -> float:
        return matrix.trace().item()

    @property
    def diagonal(self) -> Float[Tensor, "n n"]:
        return self.matrix.diagonal()


class Layer(nn.Module):
    def forward(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        return x
"""


@pytest.fixture(params=["", "from __future__ import annotations\n"], ids=["annotations", "postponed"])
def sample(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The sample as a module of the package, coming through the same hook."""
    (tmp_path / "typecheck_sample.py").write_text(request.param + SAMPLE)
    monkeypatch.setattr(mechinterp, "__path__", [*mechinterp.__path__, str(tmp_path)])
    yield importlib.import_module("mechinterp.typecheck_sample")
    del sys.modules["mechinterp.typecheck_sample"]


def vector(n: int) -> torch.Tensor:
    return torch.zeros(n)


def test_a_wrong_shape_is_refused_and_the_argument_named(sample: ModuleType) -> None:
    assert sample.outer(vector(2), vector(3)).shape == (2, 3)
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'b'"):
        sample.outer(vector(2), torch.zeros(3, 1))
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'a'"):
        sample.outer(vector(2).long(), vector(3))
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'scale'"):
        sample.outer(vector(2), vector(3), scale="2")


def test_dimensions_of_one_name_must_agree(sample: ModuleType) -> None:
    assert sample.added(vector(2)).shape == (2,)
    assert sample.added(vector(2), vector(2)).shape == (2,)
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'b'"):
        sample.added(vector(2), vector(3))


def test_a_wrong_result_is_refused(sample: ModuleType) -> None:
    assert sample.wrong_result(torch.zeros(2, 2)).shape == (2, 2)
    with pytest.raises(jaxtyping.TypeCheckError, match="the return value"):
        sample.wrong_result(torch.zeros(2, 3))


def test_every_item_is_checked(sample: ModuleType) -> None:
    assert sample.stacked(vector(2), vector(2), more=vector(2)) == 3
    for call in (
        lambda: sample.stacked(vector(2), vector(3)),
        lambda: sample.stacked(vector(2), more=vector(3)),
        lambda: sample.listed([vector(2), vector(3)]),
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


def test_a_hint_that_cannot_be_resolved_is_skipped_and_the_others_are_not(sample: ModuleType) -> None:
    assert sample.unresolvable(1, vector(2)) == 1
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'a'"):
        sample.unresolvable(1, torch.zeros(2, 2))


def test_generators_and_context_managers(sample: ModuleType) -> None:
    assert list(sample.counted(vector(2))) == [2]
    with pytest.raises(jaxtyping.TypeCheckError):
        sample.counted(torch.zeros(2, 2))
    with sample.entered(vector(2)) as entered:
        assert entered.shape == (2,)
    with pytest.raises(jaxtyping.TypeCheckError):
        sample.entered(torch.zeros(2, 2))


def test_frozen_dataclasses(sample: ModuleType) -> None:
    square = sample.Square.eye(2)
    assert square.times(vector(2)).shape == (2,)
    assert square.itself() is square
    assert sample.Square.trace(torch.eye(3)) == 3
    for call in (
        lambda: sample.Square(torch.zeros(2, 3)),
        lambda: sample.Square(torch.zeros(2, 2), name=3),
        lambda: square.times(torch.zeros(2, 1)),
        lambda: sample.Square.trace(torch.zeros(2, 3)),
        lambda: square.diagonal,
        square.not_itself,
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


def test_modules(sample: ModuleType) -> None:
    assert sample.Layer()(torch.zeros(2, 3)).shape == (2, 3)
    with pytest.raises(jaxtyping.TypeCheckError):
        sample.Layer()(vector(3))


def test_it_can_be_switched_off(sample: ModuleType, unchecked_types: None) -> None:
    assert sample.wrong_result(torch.zeros(2, 3)).shape == (3, 2)


def test_the_whole_package_comes_through_the_hook() -> None:
    names = [info.name for info in pkgutil.walk_packages(mechinterp.__path__, "mechinterp.")]
    assert names
    for name in names:
        if name.endswith(".__main__"):  # importing it would run the command line
            continue
        loader = importlib.import_module(name).__spec__.loader
        assert isinstance(loader, typecheck.Loader), f"{name} was imported unchecked"
