"""How a program comes to act on a model: said by what runs programs (`plain.acting`), which stands above this floor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ...models.model import Model

Acting = Callable[[Any, Model, Any], AbstractContextManager[Model]]
"""Program, model, prompt (or None) -> a block in which the program acts."""

_known: list[Acting] = []


def acts_by(acting: Acting) -> Acting:
    """Say how; returns the same function."""
    _known[:] = [acting]
    return acting


def act(program: Any, model: Model, prompt: Any) -> AbstractContextManager[Model]:
    """A block in which a program acts."""
    [acting] = _known
    return acting(program, model, prompt)
