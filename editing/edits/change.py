"""What an edit does to a model, as a value: of the weights, of activations, of what goes in or of what comes out.

Whoever asks an edited model asks through what `on` yields, and tokenises with it: a change of the input has rewritten
the prompt by then, and a change of the weights has put its hooks in place.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from contextlib import AbstractContextManager
from functools import cached_property
from typing import ClassVar

from ...errors import UsageError
from ...models.model import Model
from ...runs.hashing import tensor_hash
from .stored import Stored

WEIGHTS, ACTIVATIONS, INPUT, ANSWERS = "weights", "activations", "input", "answers"
"""What a change can act on."""


class Change(Stored):
    """One change of a model, frozen and compared by what it holds.

    Every kind keeps seven laws (tests/test_change_laws.py): holding nothing, or asked outside its scope, it leaves the
    model's answers as they are to the bit; it can be taken off in any order; saved and loaded it is the same; rows,
    padding and a cache make no difference.
    """

    acts_on: ClassVar[str]
    """`WEIGHTS`, `ACTIVATIONS`, `INPUT` or `ANSWERS`."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers it touches, ascending; none where it is outside the model."""
        return ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over all it holds."""
        digest = hashlib.sha256(f"{self.kind} {json.dumps(self.header, sort_keys=True)}".encode())
        for name in sorted(self.tensors):
            digest.update(f"{name} {tensor_hash(self.tensors[name])}".encode())
        return digest.hexdigest()

    def check(self, model: Model, made_for: str = "") -> None:
        """Refuse a model it cannot act on, whatever its weights.

        Args:
            model: the model.
            made_for: the name of the model it was made for, for messages.

        Raises:
            UsageError: other sizes.
            MechinterpError: the model lacks what it acts on.
        """

    @abstractmethod
    def on(self, model: Model) -> AbstractContextManager[Model]:
        """The change for the length of a block; yields the model to be asked, which need not be the one given."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Change) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def check_width(what: str, own: int, width: int, made_for: str) -> None:
    """Refuse a model in which something else enters where a change listens.

    Raises:
        UsageError: it answers to vectors of another width.
    """
    if own != width:
        raise UsageError(
            f"the {what} of this edit answers to vectors of {own} numbers, but this model has {width} there; it "
            f"belongs to {made_for or 'another model'}"
        )
