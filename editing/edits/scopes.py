"""Which prompts a change answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from ...facts.words import check_subject, stands_in
from ...given import Names, names_of
from .stored import Stored


class Scope(Stored):
    """Which prompts are meant, by their text."""

    @abstractmethod
    def holds(self, texts: Sequence[str]) -> list[bool]:
        """Whether each prompt is meant; it may depend on nothing but the prompt."""


@dataclass(frozen=True)
class Mentions(Scope):
    """Prompts in which some words stand, as whole words.

    Args:
        words: one or several, of which one is enough; none: no prompt is meant.
    """

    kind = "mentions"

    words: Names

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", names_of(self.words, "words"))
        for word in self.words:
            check_subject(word, "{}")

    @property
    def header(self) -> dict[str, Any]:
        return {"words": list(self.words)}

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        return cls(tuple(header["words"]))

    def holds(self, texts: Sequence[str]) -> list[bool]:
        return [any(stands_in(text, word) for word in self.words) for text in texts]


SCOPES: dict[str, type[Scope]] = {Mentions.kind: Mentions}
"""Every kind of scope, by its name in files."""


def read_scope(tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> Scope:
    """The scope that a file holds."""
    return SCOPES[saved["kind"]].read(tensors, saved["header"])
