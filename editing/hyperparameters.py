"""What hyper-parameters of every editor are: frozen figures with ranges, checked and changed by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from ..errors import UsageError
from ..given import number, whole

LR_RULES = ("absolute", "relative")
"""Learning rates as they are, or in units of what is trained."""


@dataclass(frozen=True)
class Published:
    """Our name for a figure of the published code.

    Args:
        name: ours.
        note: how the two differ, for people; empty where they do not.
        to_ours: its value as ours.
    """

    name: str
    note: str = ""
    to_ours: Callable[[Any], Any] = lambda value: value


_ONE_LESS = "theirs counts evaluations of the loss, of which the last takes no step: one more"

PUBLISHED_NAMES = {
    "v_num_grad_steps": Published("steps", _ONE_LESS, lambda value: value - 1),
    "v_lr": Published("lr"),
    "v_weight_decay": Published("weight_decay"),
    "clamp_norm_factor": Published("clamp"),
    "context_template_length_params": Published(
        "context_lengths", "theirs are pairs (length, how many)", lambda value: tuple((n, size) for size, n in value)
    ),
    "mom2_update_weight": Published(
        "weight", "", lambda value: value[0] if isinstance(value, list) and len(value) == 1 else value
    ),
    "L2": Published("weight"),
    "nullspace_threshold": Published("threshold"),
    "num_steps": Published("steps"),
    "norm_constraint": Published("epsilon", "False there is None here", lambda value: value or None),
    "adaptive_threshold": Published("threshold"),
    "p": Published("shared"),
}
"""Names in the published files of ROME, MEMIT, AlphaEdit, EMMET, PMET, FT and KN."""


def _said_of(name: str, known: Sequence[str]) -> str:
    """What a name of the published code is called here, where it is one."""
    theirs = PUBLISHED_NAMES.get(name)
    if theirs is None or theirs.name not in known:
        return ""
    return f"here it is called {theirs.name!r}{f' ({theirs.note})' if theirs.note else ''}; "


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
                said = _said_of(name, known)
                raise UsageError(f"{name!r} is no hyper-parameter of {self.method}; {said}they are {', '.join(known)}")
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
