"""How a command runs, told in the same words by several commands: where, how finely, on how many threads; and what of
its results is kept."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from ..errors import StorageError, UsageError
from . import options

if TYPE_CHECKING:
    from ..models.model import Model
    from ..runs.ranks import Ranks


@dataclass(frozen=True)
class Running:
    """Options of every command that loads a model; their help stands in `options`."""

    device: options.Device = None
    dtype: options.Dtype = None
    threads: options.Threads = None
    quiet: options.Quiet = False
    prepend: options.Prepend = None

    def load(self, name: str, me: Ranks | None = None, **more: Any) -> Model:
        """Load the model a command was given.

        Args:
            name: as the user named it.
            me: under torchrun, this process, which has a GPU of its own; None: the present one.
            more: `device_map` and `offload_folder`, as of `load`.
        """
        from ..models.loading import load
        from ..runs.ranks import Ranks

        options.set_threads(self.threads)
        place = (me or Ranks.current()).device(self.device)
        return load(name, device=place, dtype=options.dtype_of(self.dtype), prepend=self.prepend, **more)


DEFAULT = Running()
"""Nothing said."""


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """A command in whose signature each parameter that is a group of options stands as these options."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    members: dict[str, list[str]] = {}
    parameters: list[inspect.Parameter] = []
    for one in inspect.signature(command).parameters.values():
        if one.name not in groups:
            parameters.append(one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        own = get_type_hints(groups[one.name], include_extras=True)
        members[one.name] = [field.name for field in fields(groups[one.name])]
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=own[field.name],
            )
            for field in fields(groups[one.name])
        ]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        made = {name: groups[name](**{one: given.pop(one) for one in names}) for name, names in members.items()}
        command(**given, **made)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


@contextmanager
def kept(sentence: str) -> Iterator[None]:
    """Add to what cannot be written what is kept all the same, and how to go on."""
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{error}; {sentence}") from error


def check_new(path: Path) -> None:
    """Refuse to write over a file of the user's.

    Raises:
        UsageError: it is there.
    """
    if path.exists():
        raise UsageError(f"{str(path)!r} is there already and is not overwritten; give another name, or remove it")
