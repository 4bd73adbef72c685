"""Sources: where a written value comes from.

Corrupt, restore and sever are one act, writing a value at an address, and differ only in its source.  *Absolute*
sources replace what is there; *additive* ones (noise, a learned delta) are added to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ...facts.prompts import Prompt, prompt_of
from ...facts.words import check_spelling
from ...given import is_several, texts_of
from ...runs.hashing import json_hash, short, tensor_hash


@dataclass(frozen=True)
class Source:
    """Base of all sources.  `additive` sources add to what is there; the others replace it."""

    @property
    def additive(self) -> bool:
        return False

    @property
    def draws(self) -> int | None:
        """How many random draws the source has, None if it is not random."""
        return None


@dataclass(frozen=True)
class Zero(Source):
    """Zero (ablation)."""


@dataclass(frozen=True)
class Mean(Source):
    """The mean activation of the site over some texts (mean ablation).

    Args:
        texts: texts, or prompts, whose subjects are known too.
        by: "all": one mean over all tokens of all texts; "position": one for each token number, over the texts that
            have it; "role": one for each token role, over all tokens that have it (texts are then prompts), as the IOI
            experiments take it from template positions (Wang et al. 2023).

    Raises:
        UsageError: no texts, one string in their place, or an empty one among them; an unknown `by`; texts where roles
            are wanted.
    """

    texts: Sequence[str | Prompt]
    by: str = "all"

    def __post_init__(self) -> None:
        if self.by not in ("all", "position", "role"):
            raise UsageError(f"a mean is taken by 'all', 'position' or 'role', not {self.by!r:.40}")
        given: Any = self.texts
        if isinstance(given, (str, bytes)) or not is_several(given):
            given = texts_of(given, "texts")
        object.__setattr__(self, "texts", tuple(self._said(one) for one in given))
        if not self.texts:
            raise UsageError("a mean over no texts does not exist; give Mean(texts=(...))")

    def _said(self, one: Any) -> str | Prompt:
        if not isinstance(one, str):
            has_prompt = isinstance(getattr(one, "prompt", one), Prompt)
            return prompt_of(one) if has_prompt else next(iter(texts_of([one], "texts")))
        check_spelling(one, "a text of Mean")
        if not one:
            raise UsageError("a text of Mean is empty, so it has no activations; leave it out")
        if self.by == "role":
            raise UsageError(f"the roles of tokens need a subject, and {one!r:.60} is a text; give Mean prompts")
        return one

    def __str__(self) -> str:
        said = [one if isinstance(one, str) else one.text for one in self.texts]
        how = "" if self.by == "all" else f", by={self.by!r}"
        return f"Mean({len(said)} texts, {short(json_hash(said))}{how})"


@dataclass(frozen=True)
class Given(Source):
    """A tensor of the user's own; compared by its content, of which a copy is kept.

    Args:
        tensor: [d] for all positions, or [positions, d]; at a site with heads [heads, d_head] or
            [positions, heads, d_head].
        per_draw: the tensor has one more axis in front, one value per draw.
    """

    tensor: Tensor = field(compare=False)
    per_draw: bool = False
    digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensor", _tensor(self.tensor))
        if self.per_draw and self.tensor.ndim < 2:
            raise UsageError(f"a tensor of shape {tuple(self.tensor.shape)} has no axis of draws; leave out per_draw")
        object.__setattr__(self, "tensor", self.tensor.detach().clone())
        if not bool(torch.isfinite(self.tensor).all()):
            raise UsageError("the given tensor holds NaN or infinite values")
        object.__setattr__(self, "digest", short(tensor_hash(self.tensor)))

    @property
    def draws(self) -> int | None:
        return self.tensor.shape[0] if self.per_draw else None

    def __str__(self) -> str:
        return f"Given({tuple(self.tensor.shape)}, {self.digest})"


@dataclass(frozen=True, eq=False)
class Delta(Source):
    """A learned vector [d] added at every address.

    `run` scores it and gives no gradients; to train it, add it with a `HookWrite` in `forward(..., grad=True)`.
    """

    tensor: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, Tensor) or not self.tensor.is_floating_point():
            raise UsageError(f"Delta takes a tensor of real numbers, not {self.tensor!r:.60}")

    # A tensor under training has no lasting content to compare, so each delta is equal to itself alone.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def additive(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"Delta({tuple(self.tensor.shape)}, {short(tensor_hash(self.tensor))})"  # as it is now


@dataclass(frozen=True)
class Clean(Source):
    """The run with nothing written: what `restore` reads."""

    def __str__(self) -> str:
        return "clean run"


@dataclass(frozen=True)
class Corrupted(Source):
    """The run with only the program's corruptions: what `sever` reads, within the same draw."""

    def __str__(self) -> str:
        return "corrupted run"


def _tensor(given: object) -> Tensor:
    """A tensor of real numbers, from an array or a list of them too."""
    try:
        found = given if isinstance(given, Tensor) else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"Given takes a tensor, not {given!r:.60}") from error
    if found.dtype == torch.bool or found.is_complex() or not found.ndim:
        raise UsageError(f"Given takes a tensor of real numbers, [d] or [positions, d], not {given!r:.60}")
    return found if found.is_floating_point() else found.double()
