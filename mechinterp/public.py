"""The door of public functions: what is handed in is of the kind it should be, or is refused in one sentence.

Shapes and dimensions are checked in the test run alone; here stands what a user mixes up every day: a name in place of
a model, a path in place of a table, a word in place of True.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from .errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")

_HINTS = {
    "Model": "a model: load one with mi.load(...)",
    "Table": "a table, as trace() returns it or Table.load reads it",
    "Evaluation": "an evaluation, as evaluate_edits() and its like return it",
    "Leaderboard": "a leaderboard, as leaderboard() returns it",
    "DataFrame": "a pandas DataFrame",
    "Plan": "a plan, as plan() returns it",
    "Edit": "an edit, as an editor returns it or Edit.load reads it",
    "Sampling": "a Sampling(...)",
    "Provenance": "a Provenance(...)",
    "Path": "the path of a file or folder",
}


def public(function: Callable[P, R]) -> Callable[P, R]:
    """Look at the kind of each argument whose annotation names classes alone.

    Raises:
        UsageError: something else was handed in; which parameter, and what it takes.
    """
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        kinds = _kinds_of(function)
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            allowed = kinds.get(name)
            if allowed is not None and not isinstance(value, allowed):
                _refuse(name, value, allowed)
        return function(*args, **kwargs)

    return called


@functools.cache
def _kinds_of(function: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """Parameter -> the classes that it takes, where nothing else is meant."""
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # named for type checkers alone
        return {}
    signature = inspect.signature(function)
    single = {
        name
        for name, one in signature.parameters.items()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    return {name: kinds for name in single if (kinds := _classes(hints.get(name, Any)))}


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes of a hint; none where it says more than that."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    found: list[type] = []
    for part in parts:
        if part is None or part is type(None):
            found.append(type(None))
        elif part is bool:
            found += [bool, np.bool_]
        elif part is Path:
            found += [PathLike]
        elif part is str and Path in parts:  # other texts are looked at where it is known what they say
            found.append(str)
        elif (
            isinstance(part, type)
            and not typing.get_args(part)
            and not getattr(part, "_is_protocol", False)
            and not typing.is_typeddict(part)
            and part.__name__ in _HINTS
        ):
            found.append(part)
        else:
            return ()
    return tuple(found)


def _refuse(name: str, value: object, allowed: tuple[type, ...]) -> None:
    called = [kind.__name__ for kind in allowed]
    if "PathLike" in called:
        wanted = _HINTS["Path"]
    elif bool in allowed:
        wanted = "True or False"
    else:
        wanted = " or ".join(_HINTS[each] for each in called if each in _HINTS)
    more = " (or None)" if type(None) in allowed else ""
    plain = isinstance(value, (str, int, float, type(None)))
    shown = f"{value!r:.80}" if plain else f"of the type {type(value).__name__}"
    raise UsageError(f"{name} is {shown}; give {wanted}{more}")
