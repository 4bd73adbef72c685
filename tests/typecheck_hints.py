"""What can be said of a value and its hint without asking typeguard, which takes ten times as long."""

from __future__ import annotations

import inspect
import itertools
import types
import typing
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jaxtyping
import typeguard

# A hint that cannot be resolved (imported under TYPE_CHECKING only) is skipped. A list is checked to its
# last item: a wrong shape in the second place is as wrong as one in the first.
CONFIGURATION = typeguard.TypeCheckConfiguration(
    forward_ref_policy=typeguard.ForwardRefPolicy.IGNORE,
    collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS,
)

Predicate = Callable[[Any], bool]


def asked_of_typeguard(value: Any, hint: Any, owner: type | None = None) -> None:
    """Have typeguard look at one value.

    Args:
        value: any.
        hint: resolved.
        owner: what `Self` stands for.

    Raises:
        typeguard.TypeCheckError: they do not go together.
    """
    memo = typeguard.TypeCheckMemo({}, {}, self_type=owner, config=CONFIGURATION)
    typeguard.check_type_internal(value, hint, memo)


def has_dimensions(hint: Any) -> bool:
    """Whether there is a `Float[Tensor, "batch pos"]` anywhere in a hint."""
    if isinstance(hint, list):  # the arguments of a Callable
        return any(map(has_dimensions, hint))
    if inspect.isclass(hint) and not isinstance(hint, types.GenericAlias):
        return issubclass(hint, jaxtyping.AbstractArray)
    return any(map(has_dimensions, typing.get_args(hint)))


def always(value: Any) -> bool:
    return True


def never(value: Any) -> bool:
    return False


def surely(hint: Any) -> Predicate:
    """Whether typeguard would surely let a value pass, found out faster than by asking it; where in doubt, it is asked.

    Types are looked at in the order in which typeguard looks at them, so that dimensions are bound as it binds them.
    """
    if hint in (Any, object):
        return always
    if hint is None:
        return lambda value: value is None
    if hint is float:  # typeguard follows PEP 484: an int is as good
        return lambda value: isinstance(value, (float, int))
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _any_of([surely(part) for part in parts])
    if origin is typing.Literal:
        return lambda value: any(value == part and type(value) is type(part) for part in parts)
    if origin in _ITERATED:
        return lambda value: isinstance(value, origin)
    if origin is tuple and len(parts) == 2 and parts[1] is ...:
        return _all_of(tuple, surely(parts[0]))
    if origin is tuple:
        each = [surely(part) for part in parts]
        return lambda value: (
            type(value) is tuple and len(value) == len(each) and all(one(v) for one, v in zip(each, value, strict=True))
        )
    if origin in _COLLECTIONS and len(parts) == 1:
        return _all_of(origin, surely(parts[0]))
    if origin in (dict, Mapping):
        keys, values = map(surely, parts)
        return lambda value: isinstance(value, origin) and all(keys(k) and values(v) for k, v in value.items())
    return _instance_of(origin if _is_own(origin) else hint)


_ITERATED = (Iterator, Iterable, Generator)
_COLLECTIONS = (list, set, frozenset, Sequence)


def _is_own(kind: Any) -> bool:
    """A class whose parameters typeguard does not look into."""
    return inspect.isclass(kind) and kind.__module__.startswith("mechinterp")


def _instance_of(hint: Any) -> Predicate:
    if getattr(hint, "_is_protocol", False):
        return _keeps(hint)
    plain = (
        isinstance(hint, type)
        and not isinstance(hint, types.GenericAlias)
        and not issubclass(hint, tuple)
        and not typing.is_typeddict(hint)
    )
    return (lambda value: isinstance(value, hint)) if plain else never


def _keeps(protocol: Any) -> Predicate:
    """Whether a value keeps to a protocol, asked once of each class: typeguard compares every signature."""
    known: dict[type, bool] = {}

    def keeps(value: Any) -> bool:
        kind = type(value)
        if kind not in known:
            try:
                asked_of_typeguard(value, protocol)
            except typeguard.TypeCheckError:
                known[kind] = False
            else:
                known[kind] = True
        return known[kind]

    return keeps


def _any_of(each: Sequence[Predicate]) -> Predicate:
    known = list(itertools.takewhile(lambda one: one is not never, each))
    return lambda value: any(one(value) for one in known)


def _all_of(kind: Any, one: Predicate) -> Predicate:
    if one is never:
        return lambda value: isinstance(value, kind) and not isinstance(value, str) and len(value) == 0
    return lambda value: isinstance(value, kind) and all(map(one, value))
