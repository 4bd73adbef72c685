"""Sources of the user's own: any object that says what is written."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Prompt
from ...given import flag, whole
from ...models.model import Model
from ...runs.code import code_hash
from .sources import Source


@dataclass(frozen=True)
class Place:
    """Where a source's values go, in one prompt and one layer.

    Args:
        component: its name ("mlp").
        layer: its number.
        positions: the tokens that are written.
        heads: the heads that are, where not all of them are.
        shape: of the values: [positions, d], at a site with heads [positions, heads, d_head].
    """

    component: str
    layer: int
    positions: tuple[int, ...]
    heads: tuple[int, ...]
    shape: tuple[int, ...]


@runtime_checkable
class OwnSource(Protocol):
    """What an object needs to be a source: the values that are written at a place of a prompt.

    It may have two attributes: `draws`, how many random draws it has (`values` is asked for each; none: once, with
    draw 0), and `additive`, whether its values are added to what is there.
    """

    def values(self, model: Model, prompt: Prompt, site: Place, draw: int) -> Float[Tensor, "*shape"]:
        """Values of shape `site.shape`, or one vector for all of its tokens."""
        ...


@dataclass(frozen=True, eq=False)
class Own(Source):
    """An `OwnSource` as a source; it is equal to those of the same object."""

    given: OwnSource

    def __post_init__(self) -> None:
        flag(self.additive, f"{type(self.given).__name__}.additive")
        if getattr(self.given, "draws", None) is not None:
            whole(getattr(self.given, "draws", None), f"{type(self.given).__name__}.draws", least=1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and other.given is self.given

    def __hash__(self) -> int:
        return hash(id(self.given))

    @property
    def additive(self) -> bool:
        found: bool = getattr(self.given, "additive", False)
        return found

    @property
    def draws(self) -> int | None:
        found: int | None = getattr(self.given, "draws", None)
        return found

    def __str__(self) -> str:
        return f"{type(self.given).__name__}({code_hash(self.given)})"


AnySource = Source | OwnSource
"""What stands for a source: one of this package's, or an object of the user's own."""


def source_of(given: Any, call: str) -> Source:
    """What is a source, or can be one.

    Args:
        given: what was given.
        call: how it was, in the message: "restore(mlp[3] @ last".

    Raises:
        UsageError: it is none; what to write instead.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, type):
        raise UsageError(f"{given.__name__} is a kind of source; write {call}, {given.__name__}(...))")
    if isinstance(given, Tensor) or hasattr(given, "__array__"):
        raise UsageError(f"a tensor is no source of a value; write {call}, Given(tensor))")
    if _gives_values(given):
        return Own(given)
    if callable(given) or hasattr(given, "values"):
        called = "a function" if callable(given) else f"{given!r:.40}"
        raise UsageError(
            f"{called} is no source of a value; give {call}, ...) an object with the method "
            "values(model, prompt, site, draw), which gives a tensor of shape site.shape"
        )
    raise UsageError(f"{given!r:.80} is no source of a value; give one such as Gaussian(), Zero() or Given(tensor)")


def _gives_values(given: Any) -> bool:
    """Whether it has a method `values` that can be asked as a source is (a dictionary has another)."""
    try:
        inspect.signature(given.values).bind(None, None, None, 0)
    except (AttributeError, TypeError, ValueError):
        return False
    return True
