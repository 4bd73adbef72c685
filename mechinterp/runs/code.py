"""What a function of the user's is, as a hash: a run that was begun with it must not go on with another one.

The compiled code decides, with its constants, defaults, what it closes over and the globals that it names; comments and
line numbers do not.  So two lambdas of one line differ, and a function differs once a number that it reads has changed.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from .hashing import short, tensor_hash

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(Ellipsis), range, slice)


def code_hash(value: object) -> str:
    """The first twelve hexadecimal digits of SHA-256 over a function or an object with methods.

    Of the parts of a library only the name counts (its version stands in every identity); so it does of what can
    neither be looked into nor be pickled.
    """
    digest = hashlib.sha256()
    for part in _parts(value, set()):
        digest.update(part.encode(errors="surrogatepass") + b"\0")
    return short(digest.hexdigest())


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    if isinstance(value, _PLAIN):
        yield f"{type(value).__name__} {value!r}"
        return
    if isinstance(value, Tensor):
        yield f"tensor {tensor_hash(value)}"
        return
    if isinstance(value, np.ndarray) and value.dtype != object:
        yield f"array {value.shape} {value.dtype} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
        return
    if id(value) in seen:
        yield "again"
        return
    seen.add(id(value))
    if isinstance(value, (list, tuple)):
        yield f"{type(value).__name__} {len(value)}"
        for one in value:
            yield from _parts(one, seen)
    elif isinstance(value, (set, frozenset)):
        yield from sorted(" ".join(_parts(one, seen)) for one in value)
    elif isinstance(value, Mapping):
        for key in value:
            yield from _parts(key, seen)
            yield from _parts(value[key], seen)
    elif isinstance(value, types.CodeType):
        yield from _code(value, seen)
    elif isinstance(value, functools.partial):
        yield from _parts((value.func, value.args, value.keywords), seen)
    elif isinstance(value, types.MethodType):
        yield from _parts((value.__func__, value.__self__), seen)
    elif isinstance(value, types.FunctionType) and not _is_of_a_library(value):
        yield from _function(value, seen)
    elif isinstance(value, nn.Module):
        yield f"{type(value).__qualname__} {tensor_hash(*value.state_dict().values())}"
    elif isinstance(value, type) or _is_of_a_library(type(value)):
        yield from _named(value, seen)
    else:
        yield type(value).__qualname__
        for own in type(value).__mro__:
            if not _is_of_a_library(own):
                yield from _methods(own, seen)
        yield from _parts(value.__getstate__(), seen)


def _function(function: types.FunctionType, seen: set[int]) -> Iterator[str]:
    yield function.__qualname__
    yield from _parts(function.__code__, seen)
    yield from _parts((function.__defaults__, function.__kwdefaults__), seen)
    for cell in function.__closure__ or ():
        yield from _parts(cell.cell_contents, seen)

    for name in sorted(_global_names(function.__code__) & set(function.__globals__)):
        yield from _parts((name, function.__globals__[name]), seen)


def _global_names(code: types.CodeType) -> set[str]:
    """Every name that a function or one inside it may look up outside itself."""
    inner = (_global_names(one) for one in code.co_consts if isinstance(one, types.CodeType))
    return set(code.co_names).union(*inner)


def _methods(kind: type, seen: set[int]) -> Iterator[str]:
    for name in sorted(vars(kind)):
        found = vars(kind)[name]
        function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
        if isinstance(function, types.FunctionType):
            yield from _parts((name, function), seen)


def _code(code: types.CodeType, seen: set[int]) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars}"
    for constant in code.co_consts:
        yield from _parts(constant, seen)


def _named(value: Any, seen: set[int]) -> Iterator[str]:
    """What is not looked into: a class or a part of a library, by its name; a value of one, by its pickle too."""
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType, types.FunctionType)):
        yield f"{getattr(value, '__module__', '')} {getattr(value, '__qualname__', value.__name__)}"
        return
    yield type(value).__qualname__
    if type(value).__module__.startswith("mechinterp."):  # a model would be its weights
        yield repr(value)
        return
    try:
        yield hashlib.sha256(pickle.dumps(value)).hexdigest()
    except Exception:  # whatever a foreign class raises when it is not made for pickling
        yield "not pickled"


def _is_of_a_library(value: Any) -> bool:
    """Whether it comes with Python or an installed package, whose version is known by other means."""
    name = (getattr(value, "__module__", None) or "").partition(".")[0]
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return name in sys.stdlib_module_names or name == "mechinterp" or "site-packages" in file
