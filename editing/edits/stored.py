"""What changes and scopes have in common: they are written as tensors and a header, and read again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor


class Stored(ABC):
    """Something that is wholly given by its tensors and its header."""

    kind: ClassVar[str]
    """Its name in files."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All it holds that is a tensor, by names without blanks."""
        return {}

    @property
    def header(self) -> dict[str, Any]:
        """All else it holds, as JSON gives it back."""
        return {}

    @classmethod
    @abstractmethod
    def read(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Self:
        """The one that `tensors` and `header` are of."""
