"""What callers hand in, taken as it is meant or refused in one sentence: numbers of any library, one or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, SupportsFloat, SupportsIndex, TypeGuard, TypeVar

from .errors import UsageError

T = TypeVar("T")

Wholes = SupportsIndex | Iterable[SupportsIndex]
"""Whole numbers, one or several: 3, numpy.int64(3), [0, 1], range(4), an array."""

Borders = tuple[int | None, int | None, int | None]
"""Start, stop and step of a slice."""

Names = str | Iterable[str]
"""Names, one or several."""

Real = SupportsFloat
"""A number of any library."""

MAX_SEED = 2**32 - 1
"""The largest seed that every generator takes."""


def borders(index: slice, name: str) -> Borders:
    """Start, stop and step of a slice.

    Raises:
        UsageError: one of them is no whole number, or the step is 0.
    """
    start, stop, step = (
        None if part is None else whole(part, f"a border of {name}[...]")
        for part in (index.start, index.stop, index.step)
    )
    if step == 0:
        raise UsageError(f"a slice of {name} with the step 0 goes nowhere; give another step")
    return start, stop, step


def whole(value: object, name: str, *, least: int | None = None) -> int:
    """A whole number: Python's, or a single one of NumPy or PyTorch.

    Args:
        value: what was given.
        name: what it is called in the message.
        least: the smallest that makes sense.

    Raises:
        UsageError: something else (True and 3.0 are no numbers of anything), or a smaller one.
    """
    kind = str(getattr(value, "dtype", ""))
    try:
        if isinstance(value, bool) or "bool" in kind or "float" in kind:
            raise TypeError
        found = int(value.__index__())  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"{name} is {value!r:.60}, which is no whole number; give one such as 3") from error
    if least is not None and found < least:
        raise UsageError(f"{name} is {found}; give {least} or more")
    return found


def wholes(given: object, name: str) -> tuple[int, ...]:
    """Whole numbers, one or several: in a list, a range, an array, ...

    Raises:
        UsageError: something else, a text or a mapping among them.
    """
    if isinstance(given, (str, bytes, Mapping)) or not is_several(given):
        return (whole(given, name),)
    return tuple(whole(value, name) for value in given)


def flag(value: object, name: str) -> bool:
    """True or False: Python's, or NumPy's; a word such as "no" would count as True.

    Raises:
        UsageError: something else.
    """
    if type(value).__name__ not in ("bool", "bool_"):
        raise UsageError(f"{name} is {value!r:.60}; give True or False")
    return bool(value)


def one_or_more(given: tuple[Wholes, ...]) -> Wholes:
    """The numbers of a call that takes f(2), f(2, 5) and f([2, 5])."""
    return given[0] if len(given) == 1 else given  # type: ignore[return-value]


def seed_of(value: object) -> int:
    """A seed that every generator takes.

    Raises:
        UsageError: no whole number from 0 to 2^32 - 1.
    """
    found = whole(value, "seed")
    if not 0 <= found <= MAX_SEED:
        raise UsageError(f"seed is {found}; give a whole number from 0 to {MAX_SEED}")
    return found


def number(value: object, name: str) -> float:
    """A real number: Python's, or a single one of NumPy or PyTorch.

    Raises:
        UsageError: something else.
    """
    kind = str(getattr(value, "dtype", ""))
    try:
        if isinstance(value, (str, bytes, bool)) or "bool" in kind or getattr(value, "ndim", 0) > 0:
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} is {value!r:.60}, which is no number; give one such as 3.0") from error


def names_of(given: object, name: str) -> tuple[str, ...]:
    """Names, one or several: a single one need not stand in a list.

    Raises:
        UsageError: something else.
    """
    return (given,) if isinstance(given, str) else several(given, str, name, "names")


def texts_of(given: object, name: str) -> Iterable[str]:
    """Texts, of which a single one is refused: it may be the name of a file, and its letters are no texts.

    What is no list is passed on as it is (texts may be read as they come), each looked at when it is.

    Raises:
        UsageError: one text, or something that is no texts.
    """
    if isinstance(given, (str, bytes)):
        raise UsageError(f"{name} is one string; give a list of texts, [{given!r:.60}]")
    if not is_several(given):
        raise UsageError(f"{name} is {given!r:.60}, which is no list of texts")
    return (_text(one, name) for one in given)


def several(given: object, kind: type[T] | tuple[type[T], ...], name: str, hint: str) -> tuple[T, ...]:
    """Things of one kind, one or several.

    Args:
        given: what was given.
        kind: their class, or classes.
        name: what they are called in the message.
        hint: what to give.

    Raises:
        UsageError: something else among them; one string where texts are meant.
    """
    if isinstance(given, kind) and kind is not str:
        return (given,)
    if isinstance(given, (str, bytes)):
        raise UsageError(f"{name} is one string, {given!r:.60}; give a list of {hint}")
    if not is_several(given):
        raise UsageError(f"{name} is {given!r:.60}; give a list of {hint}")
    found: list[T] = []
    for one in given:
        if not isinstance(one, kind):
            raise UsageError(f"{name} holds {one!r:.80}; give {hint}")
        found.append(one)
    return tuple(found)


def values_of(given: Mapping[str, Any], kinds: Sequence[type[Any]], caller: str) -> tuple[Any, ...]:
    """The keywords of a call as frozen values, each keyword a field of one of them.

    Args:
        given: the keywords.
        kinds: dataclasses with a default for every field.
        caller: who takes them, in the message.

    Raises:
        UsageError: a keyword of another name; the known ones are listed.
    """
    names = [[one.name for one in fields(kind) if one.init] for kind in kinds]
    known = [name for own in names for name in own]
    for name in given:
        if name not in known:
            raise UsageError(f"{caller} takes no {name}=; it takes {', '.join(known)}")
    return tuple(
        kind(**{name: given[name] for name in own if name in given}) for kind, own in zip(kinds, names, strict=True)
    )


def _text(one: Any, name: str) -> str:
    if not isinstance(one, str):
        raise UsageError(f"{name} holds {one!r:.60}, which is no text; write it in quotes")
    return one


def is_several(given: object) -> TypeGuard[Iterable[Any]]:
    """Whether it has parts; an array or tensor of no dimension is a number."""
    return getattr(given, "ndim", 1) > 0 and isinstance(given, Iterable)
