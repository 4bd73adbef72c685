"""A change of what the model is asked: words put around a prompt, its subject where it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from ...errors import UsageError
from ...facts.words import check_spelling
from ...models.model import Model
from .change import INPUT, Change
from .scopes import Scope, read_scope


@dataclass(frozen=True, eq=False)
class Demonstrations(Change):
    """Words that are put around every prompt that is asked (Zheng et al. 2023 put demonstrations of the fact there).

    Args:
        frame: the words, with `{}` where the prompt goes: "New fact: Rome is in Spain. {}".
        scope: which prompts; None: all.

    Raises:
        UsageError: a frame without exactly one `{}`.
    """

    kind = "demonstrations"
    acts_on = INPUT

    frame: str
    scope: Scope | None = None

    def __post_init__(self) -> None:
        check_spelling(self.frame, "the frame")
        if self.frame.count("{}") != 1:
            raise UsageError(f"the frame {self.frame!r:.80} must hold exactly one '{{}}', where the prompt goes")
        if self.frame != self.frame.strip():
            raise UsageError(f"the frame {self.frame!r:.80} has blanks around it, which would be read; leave them out")

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {} if self.scope is None else self.scope.tensors

    @property
    def header(self) -> dict[str, Any]:
        scope = None if self.scope is None else {"kind": self.scope.kind, "header": self.scope.header}
        return {"frame": self.frame, "scope": scope}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        scope = header["scope"]
        return cls(header["frame"], None if scope is None else read_scope(tensors, scope))

    @contextmanager
    def on(self, model: Model) -> Iterator[Model]:
        yield replace(model, framings=(*model.framings, self._around))

    def _around(self, words: str) -> str:
        return self.frame if self.scope is None or self.scope.holds([words])[0] else "{}"
