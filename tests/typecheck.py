"""The type checker behind jaxtyping's import hook in the test run: every call has its shapes checked.

`typeguard.typechecked` cannot be handed to jaxtyping: from version 4 on it recompiles the source and reads
the "batch pos" of `Float[Tensor, "batch pos"]` as Python. Its `check_type_internal`, which looks at one
value and one resolved hint, has no such trouble, so the decorator around it is written here. jaxtyping
calls it with a stand-in for each function of the package, once to check the arguments and once, after the
call, to check the result too, and turns what is raised into a `jaxtyping.TypeCheckError` that names the
argument.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import types
import typing
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import typeguard

# A hint that cannot be resolved (imported under TYPE_CHECKING only) is skipped. A list is checked to its
# last item: a wrong shape in the second place is as wrong as one in the first.
CONFIGURATION = typeguard.TypeCheckConfiguration(
    forward_ref_policy=typeguard.ForwardRefPolicy.IGNORE,
    collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS,
)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments given to `function`, or what it returns, against its annotations.

    Of the two stand-ins of a function the one that says what is returned (the other's result is `Any`) is handed the
    arguments again; they were checked by the other, in whose dimensions the result is then measured.
    """
    if inspect.isclass(function):  # jaxtyping sees to the `__init__` of dataclasses itself
        return function
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:
        return function
    signature = inspect.signature(function)
    hint = hints.pop("return", Any)
    if hint is not Any:
        returns = surely(hint)

        @functools.wraps(function)
        def result_checked(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if not returns(result):
                typeguard.check_type_internal(result, hint, memo_of(signature, args))
            return result

        return result_checked

    parameters = signature.parameters
    checks = {name: (surely(hint), hint) for name, hint in hints.items()}
    positional = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    several = {p.kind: p.name for p in parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    def check(name: str | None, value: Any, args: tuple[Any, ...]) -> None:
        sure, hint = checks.get(name, (always, Any))
        if not sure(value):
            typeguard.check_type_internal(value, hint, memo_of(signature, args))

    @functools.wraps(function)
    def arguments_checked(*args: Any, **kwargs: Any) -> Any:
        for name, value in zip(positional, args, strict=False):
            check(name, value, args)
        for value in args[len(positional) :]:
            check(several.get(inspect.Parameter.VAR_POSITIONAL), value, args)
        for name, value in kwargs.items():  # defaults are left out: nobody passed them
            check(name if name in parameters else several.get(inspect.Parameter.VAR_KEYWORD), value, args)
        return function(*args, **kwargs)

    return arguments_checked


Predicate = Callable[[Any], bool]


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
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _any_of([surely(part) for part in parts])
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
    plain = (
        isinstance(hint, type)
        and not isinstance(hint, types.GenericAlias)
        and not issubclass(hint, tuple)
        and not typing.is_typeddict(hint)
        and not getattr(hint, "_is_protocol", False)
    )
    return (lambda value: isinstance(value, hint)) if plain else never


def _any_of(each: Sequence[Predicate]) -> Predicate:
    known = list(itertools.takewhile(lambda one: one is not never, each))
    return lambda value: any(one(value) for one in known)


def _all_of(kind: Any, one: Predicate) -> Predicate:
    if one is never:
        return lambda value: isinstance(value, kind) and not isinstance(value, str) and len(value) == 0
    return lambda value: isinstance(value, kind) and all(map(one, value))


def memo_of(signature: inspect.Signature, args: tuple[Any, ...]) -> typeguard.TypeCheckMemo:
    """What typeguard knows beside a value and its hint."""
    return typeguard.TypeCheckMemo({}, {}, self_type=owner(signature, args), config=CONFIGURATION)


def owner(signature: inspect.Signature, args: tuple[Any, ...]) -> type | None:
    """What `Self` stands for: the class of the first argument of a method."""
    first = next(iter(signature.parameters), None)
    if not args or first not in ("self", "cls"):
        return None
    return args[0] if first == "cls" else type(args[0])
