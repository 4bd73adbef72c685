"""What hyper-parameters of every editor are: frozen figures with ranges, checked and changed by name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from ..errors import UsageError
from ..given import number, whole

LR_RULES = ("absolute", "relative")
"""Learning rates as they are, or in units of what is trained."""


def _plain(value: Any) -> Any:
    """A number of NumPy or PyTorch as Python's."""
    if not hasattr(value, "tolist"):
        raise UsageError(f"{value!r:.60} is no hyper-parameter that a file could keep; give a plain number or text")
    return value.tolist()


@dataclass(frozen=True)
class Hparams:
    """Frozen figures with ranges; `method` names whose they are in messages."""

    method: ClassVar[str] = "this editor"

    @property
    def editors(self) -> tuple[str, ...]:
        """The editors they can belong to, where several share their type; else none."""
        return ()

    def with_(self, **changes: object) -> Self:
        """These hyper-parameters with some of them changed.

        Raises:
            UsageError: an unknown name (the known ones are listed), or a value outside its range.
        """
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise UsageError(f"{name!r} is no hyper-parameter of {self.method}; they are {', '.join(known)}")
        return replace(self, **changes)

    def plain(self) -> dict[str, Any]:
        """As JSON gives them back: tuples become lists."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=_plain))
        return found

    def _one_of(self, **allowed: tuple[str, ...]) -> None:
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}")

    def _above_zero(self, *names: str) -> None:
        for name in names:
            value = self._figure(name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be above 0")

    def _not_negative(self, *names: str) -> None:
        for name in names:
            value = self._figure(name)
            if value is None or not value >= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")

    def _figure(self, name: str) -> float | None:
        """A number of the kind that the field has; None where that is allowed."""
        value, kind = getattr(self, name), str(next(one.type for one in fields(self) if one.name == name))
        if value is None and "None" in kind:
            return None
        return whole(value, name) if kind == "int" else number(value, name)
