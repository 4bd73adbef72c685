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
import typing
from collections.abc import Callable, Iterator
from typing import Any

import typeguard

# A hint that cannot be resolved (imported under TYPE_CHECKING only) is skipped. A list is checked to its
# last item: a wrong shape in the second place is as wrong as one in the first.
CONFIGURATION = typeguard.TypeCheckConfiguration(
    forward_ref_policy=typeguard.ForwardRefPolicy.IGNORE,
    collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS,
)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments given to `function`, and what it returns, against its annotations."""
    if inspect.isclass(function):  # jaxtyping sees to the `__init__` of dataclasses itself
        return function
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:
        return function
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        memo = typeguard.TypeCheckMemo({}, {}, self_type=owner(signature, args), config=CONFIGURATION)
        given = signature.bind(*args, **kwargs).arguments  # defaults are left out: nobody passed them
        for name, value in given.items():
            if name in hints:
                for item in items(signature.parameters[name], value):
                    typeguard.check_type_internal(item, hints[name], memo)
        result = function(*args, **kwargs)
        if "return" in hints:
            typeguard.check_type_internal(result, hints["return"], memo)
        return result

    return wrapper


def items(parameter: inspect.Parameter, value: Any) -> Iterator[Any]:
    """The values that an annotation speaks of: each one of `*args` and `**kwargs`, else the value itself."""
    if parameter.kind is parameter.VAR_POSITIONAL:
        yield from value
    elif parameter.kind is parameter.VAR_KEYWORD:
        yield from value.values()
    else:
        yield value


def owner(signature: inspect.Signature, args: tuple[Any, ...]) -> type | None:
    """What `Self` stands for: the class of the first argument of a method."""
    first = next(iter(signature.parameters), None)
    if not args or first not in ("self", "cls"):
        return None
    return args[0] if first == "cls" else type(args[0])
