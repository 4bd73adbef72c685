"""Every call of the package has its types and shapes checked in the test run.

`jaxtyping.install_import_hook` would do it with `typeguard.typechecked`, but for two things. From version 4 typeguard
recompiles the source and reads the "batch pos" of `Float[Tensor, "batch pos"]` as Python; its `check_type_internal`,
which looks at one value and one resolved hint, has no such trouble. And jaxtyping makes two stand-ins of every function
when it is imported and binds every call to its signature: that took a third of the time of all tests. So the hook and
the decorator are written here. A function costs nothing until it is called: then its hints are resolved, once, and each
call asks the predicates of `typecheck_hints`; only what these cannot tell goes to typeguard.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import io
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jaxtyping
import typeguard
from typecheck_hints import always, asked_of_typeguard, has_dimensions, surely

NAME = "_typecheck_checked"
"""What the decorator is called in the modules that come through the hook."""


def install(package: str) -> None:
    """Have every function and dataclass of a package checked that is imported from now on."""
    sys.meta_path.insert(0, _Finder(package))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.package and not fullname.startswith(f"{self.package}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


class Loader(importlib.machinery.SourceFileLoader):
    """Reads the source and puts the decorator on everything; what it compiles is kept nowhere."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        tree = _Decorated().visit(ast.parse(importlib.util.decode_source(self.get_data(path)), path))
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module: types.ModuleType) -> None:
        setattr(module, NAME, checked)
        super().exec_module(module)


class _Decorated(ast.NodeTransformer):
    """Functions are checked inside their other decorators, which may hide the hints; classes outside, once `dataclass`
    has made them their `__init__`."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list.append(self._name(node))
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list.insert(0, self._name(node))
        return self.generic_visit(node)

    @staticmethod
    def _name(node: ast.stmt) -> ast.expr:
        return ast.fix_missing_locations(ast.copy_location(ast.Name(NAME, ast.Load()), node))


def checked(function: Any) -> Any:
    """A function whose arguments and result are checked at every call; of a class, its `__init__` if it is a dataclass.

    Raises:
        jaxtyping.TypeCheckError: when it is called, naming the argument.
    """
    if inspect.isclass(function):
        if "__dataclass_fields__" in vars(function) and "__init__" in vars(function):
            function.__init__ = checked(function.__init__)
        return function
    checks: _Checks | None = None

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal checks
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if checks is None:
            checks = _Checks(function)
        if not checks.shaped:
            checks.arguments(args, kwargs)
            return checks.result(function(*args, **kwargs), args)
        with jaxtyping.jaxtyped("context"):  # the dimensions of this call
            checks.arguments(args, kwargs)
            return checks.result(function(*args, **kwargs), args)

    return called


class _Checks:
    """What to ask of the arguments and the result of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.where = f"{function.__module__}.{function.__qualname__}"
        hints = _resolved(function)
        parameters = inspect.signature(function).parameters
        self.first = next(iter(parameters), None)
        self.shaped = any(map(has_dimensions, hints.values()))
        self.returns = hints.pop("return", Any)
        self.right = surely(self.returns)
        self.named = {name: (name, surely(hint), hint) for name, hint in hints.items()}
        nothing = (None, always, Any)
        positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self.positional = [self.named.get(p.name, nothing) for p in positional]
        several = {p.kind: self.named.get(p.name, nothing) for p in parameters.values()}
        self.more = several.get(inspect.Parameter.VAR_POSITIONAL, nothing)
        self.others = several.get(inspect.Parameter.VAR_KEYWORD, nothing)

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """In the order of the call; defaults are left out: nobody passed them."""
        for (name, sure, hint), value in zip(self.positional, args, strict=False):
            if not sure(value):
                self.ask(value, hint, args, f"parameter {name!r}")
        for value in args[len(self.positional) :]:
            name, sure, hint = self.more
            if not sure(value):
                self.ask(value, hint, args, f"parameter {name!r}")
        for keyword, value in kwargs.items():
            name, sure, hint = self.named.get(keyword, self.others)
            if not sure(value):
                self.ask(value, hint, args, f"parameter {keyword!r}")

    def result(self, value: Any, args: tuple[Any, ...]) -> Any:
        if not self.right(value):
            self.ask(value, self.returns, args, "the return value")
        return value

    def ask(self, value: Any, hint: Any, args: tuple[Any, ...], what: str) -> None:
        """Ask typeguard, which has the last word."""
        try:
            asked_of_typeguard(value, hint, self.owner(args))
        except typeguard.TypeCheckError as error:
            with contextlib.redirect_stdout(io.StringIO()) as known:
                jaxtyping.print_bindings()
            shape = f" (it has shape {tuple(value.shape)}, {value.dtype})" if hasattr(value, "shape") else ""
            raise jaxtyping.TypeCheckError(
                f"{what} of {self.where}: {error}{shape}\n{known.getvalue()}".rstrip()
            ) from error

    def owner(self, args: tuple[Any, ...]) -> type | None:
        """What `Self` stands for: the class of the first argument of a method."""
        if not args or self.first not in ("self", "cls"):
            return None
        return args[0] if self.first == "cls" else type(args[0])


def _resolved(function: Callable[..., Any]) -> dict[str, Any]:
    """The hints of a function; one that cannot be resolved (imported under TYPE_CHECKING only) is left out."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:
        hints = {}
        for name, hint in function.__annotations__.items():
            alone = types.SimpleNamespace(__annotations__={name: hint})
            with contextlib.suppress(Exception):
                hints |= typing.get_type_hints(alone, function.__globals__, include_extras=True)
        return hints
